"""Numbers that results are held against."""

import numpy as np

from ptjax.data.pipeline import Data, Pipeline


def unigram_entropy(data: Data, batches: int | None = None) -> float:
    """Entropy in nats of the ordinary tokens of the validation split, or of its first batches: no model without context
    has a lower loss on them."""
    pipeline = Pipeline(data, "validation", shuffle=False)
    counts = np.zeros(pipeline.vocab.size, np.int64)
    for batch in pipeline.one_pass(batches):
        counts += np.bincount(batch["tokens"].reshape(-1), minlength=len(counts))
    counts[~pipeline.vocab.ordinary] = 0
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())
