"""Numbers that results are held against."""

import numpy as np

from ptjax.data.pipeline import Data, Pipeline


def unigram_entropy(data: Data, split: str = "validation") -> float:
    """Entropy in nats of the ordinary tokens of a split: no model without context has a lower loss on it."""
    pipeline = Pipeline(data, split, shuffle=False)
    counts = np.zeros(pipeline.vocab.size, np.int64)
    for batch in pipeline.iterate():
        counts += np.bincount(batch["tokens"].reshape(-1), minlength=len(counts))
    counts[list(pipeline.vocab.special_ids)] = 0
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())
