"""ALBERT (Lan et al., 2020): BERT's body with one layer that runs many times, and an embedding narrower than it."""

from typing import Literal

import chz

from ptjax.models.base import gelu, gelu_tanh, presets
from ptjax.models.bert import BERT
from ptjax.types import Array

# Lan et al., 2020, table 1; heads by the released models.
SIZES = {
    "base": dict(layers=12, width=768, heads=12, hidden=3072),
    "large": dict(layers=24, width=1024, heads=16, hidden=4096),
    "xlarge": dict(layers=24, width=2048, heads=16, hidden=8192),
    "xxlarge": dict(layers=12, width=4096, heads=64, hidden=16384),
}


@chz.chz
class ALBERT(BERT):
    """ALBERT's body, without pooler and heads; version 2, which has no dropout. The published objective is `SOP`."""

    embedding: int = chz.field(default=128, doc="width E of the embedding")
    gelu: Literal["tanh", "exact"] = chz.field(default="tanh", doc="GELU by tanh or by the error function")
    dropout: float = chz.field(default=0.0, doc="dropout of embeddings and of each residual branch")
    attention_dropout: float = chz.field(default=0.0, doc="dropout of attention probabilities")

    @chz.validate
    def _embedding(self):
        if self.embedding < 1:
            raise ValueError(f"embedding must be at least 1, not {self.embedding}")

    @classmethod
    def preset(cls, size: str, **overrides) -> "ALBERT":
        """base, large, xlarge or xxlarge."""
        return presets(cls, SIZES, size, overrides)

    @property
    def table_width(self) -> int:
        return self.embedding

    @property
    def projects(self) -> bool:
        """Always, as in the released models: also where the widths are equal."""
        return True

    @property
    def shares(self) -> bool:
        return True

    def activation(self, x: Array) -> Array:
        return gelu_tanh(x) if self.gelu == "tanh" else gelu(x)

    def head_activation(self, x: Array) -> Array:
        return self.activation(x)
