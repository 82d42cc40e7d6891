"""RoBERTa (Liu et al., 2019): BERT's body with one type of sentence, for byte-level BPE."""

import chz

from ptjax.models.base import presets
from ptjax.models.bert import BERT

# Liu et al., 2019, table 9.
SIZES = {
    "base": dict(layers=12, width=768, heads=12, hidden=3072),
    "large": dict(layers=24, width=1024, heads=16, hidden=4096),
}

FIRST_POSITION = 2  # fairseq counts from the row behind the padding's, which is 1


@chz.chz
class RoBERTa(BERT):
    """RoBERTa's body, without heads. Its authors train it by MLM(rate=0.15) on rows full of sentences."""

    types: int = chz.field(default=1, doc="sentence types (segment embeddings)")
    epsilon: float = chz.field(default=1e-5, doc="of the layer norms")

    @classmethod
    def preset(cls, size: str, **overrides) -> "RoBERTa":
        """base or large."""
        return presets(cls, SIZES, size, overrides)

    @property
    def first_position(self) -> int:
        return FIRST_POSITION
