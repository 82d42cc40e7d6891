"""XLNet (Yang et al., 2019): Transformer-XL's attention with a second stream, which knows where but not what."""

from typing import Literal

import chz
import jax
import jax.numpy as jnp
from flax import linen as nn

from ptjax.models.base import TextModelConfig, gelu, gelu_tanh, presets
from ptjax.models.transformer_xl import Block
from ptjax.nn.attention import Cache
from ptjax.nn.dropout import Dropout
from ptjax.nn.embed import TextEmbed
from ptjax.nn.relative import relate
from ptjax.nn.stack import Stack
from ptjax.partition import constrain
from ptjax.types import Array, Hidden, Memory, TextInput

# Yang et al., 2019; the smaller ones have BERT's small shapes.
SIZES = {
    "tiny": dict(layers=2, width=128, heads=2, hidden=512),
    "mini": dict(layers=4, width=256, heads=4, hidden=1024),
    "small": dict(layers=4, width=512, heads=8, hidden=2048),
    "base": dict(layers=12, width=768, heads=12, hidden=3072),
    "large": dict(layers=24, width=1024, heads=16, hidden=4096),
}

ACTIVATIONS = {"gelu_tanh": gelu_tanh, "gelu": gelu, "relu": jax.nn.relu}


@chz.chz
class XLNet(TextModelConfig):
    """XLNet's body: post-norm, without the authors' memory.

    Asked for targets it runs two streams: the row's, and one of queries that start from one learned vector and read
    the row. Otherwise it is one stack, whichever way its mask lets it look. Sentence types are relative: a key is of
    the query's type or it is not.
    """

    activation: Literal["gelu_tanh", "gelu", "relu"] = chz.field(
        default="gelu_tanh",
        doc="of the feed-forward part: GELU by its tanh form (the authors' code), or exact, or ReLU",
    )
    max_length: int = chz.field(default=512, doc="the longest text to sample; rows may have any length")

    @classmethod
    def preset(cls, size: str, **overrides) -> "XLNet":
        """base and large as published; tiny, mini and small for a laptop."""
        return presets(cls, SIZES, size, overrides)

    @property
    def offers(self) -> frozenset[str]:
        return frozenset({"text", "two streams"})

    def check_length(self, length: int) -> None:
        """Any will do: no parameter belongs to a position."""

    def flops_per_token(self, length: int) -> float:
        """Of the row's stream: as of any transformer, with as much again for the scores by distance, since twice as
        many distances as keys are scored. A target costs as much, less its keys and values (4 layers width^2)."""
        return super().flops_per_token(length) + 4.0 * self.layers * length * self.width

    def build(self, vocab_size: int) -> nn.Module:
        return Body(self, vocab_size)


class Body(nn.Module):
    config: XLNet
    vocab_size: int

    def setup(self):
        c = self.config
        self.embed = TextEmbed(self.vocab_size, c.width, 0, 0, c.std, c.std, jnp.float32)
        init = nn.with_logical_partitioning(nn.initializers.normal(c.std), ("table",))
        self.target = self.param("target", init, (c.width,), jnp.float32)  # mask_emb in the authors' code
        self.drop = Dropout(c.dropout)
        self.layers = Stack(Block(c, ACTIVATIONS[c.activation], True, parent=None), c.layers, c.unrolled(), c.remat)

    def __call__(
        self, inputs: TextInput, state: Cache | None = None, *, train: bool, embedded: Array | None = None
    ) -> Hidden:
        if isinstance(state, Memory):
            raise ValueError("XLNet keeps no memory: TransformerXL does")
        dtype = self.config.compute_dtype()
        drop = lambda x: self.drop(x, deterministic=not train)
        row_BLD = self.embedding(inputs) if embedded is None else embedded
        row_BLD = constrain(drop(row_BLD.astype(dtype)), "batch", "length", "embed_activation")
        queries_BPD = None
        if inputs.targets is not None:
            queries_BPD = drop(jnp.broadcast_to(self.target.astype(dtype), inputs.targets.shape + self.target.shape))
        relations = relate(inputs, self.config.width, state)
        relations = relations.replace(encodings=drop(relations.encodings))
        (row_BLD, queries_BPD), state = self.layers((row_BLD, queries_BPD), relations, state, train)
        return Hidden(drop(row_BLD), state, None if queries_BPD is None else drop(queries_BPD))

    def embedding(self, inputs: TextInput) -> Array:
        return self.embed(inputs)

    def table(self) -> Array:
        return self.embed.table()
