"""ELECTRA (Clark et al., 2020): BERT's body with an embedding that is narrower than it in the small model."""

import chz

from ptjax.models.base import presets
from ptjax.models.bert import BERT

# Clark et al., 2020, table 6; the embedding is as wide as the discriminator, but in the small one.
SIZES = {
    "small": dict(layers=12, width=256, heads=4, hidden=1024, embedding=128),
    "base": dict(layers=12, width=768, heads=12, hidden=3072, embedding=768),
    "large": dict(layers=24, width=1024, heads=16, hidden=4096, embedding=1024),
}


@chz.chz
class ELECTRA(BERT):
    """ELECTRA's body, discriminator or generator, without heads. The published objective is `RTD`, whose generator
    reads the discriminator's embedding: both keep its width."""

    embedding: int = chz.field(default=768, doc="width E of the embedding; where it is not the body's, it is projected")

    @chz.validate
    def _embedding(self):
        if self.embedding < 1:
            raise ValueError(f"embedding must be at least 1, not {self.embedding}")

    @classmethod
    def preset(cls, size: str, **overrides) -> "ELECTRA":
        """small, base or large: the discriminator."""
        return presets(cls, SIZES, size, overrides)

    @property
    def table_width(self) -> int:
        return self.embedding
