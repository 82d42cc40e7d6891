"""GPT-2 (Radford et al., 2019): a pre-norm transformer decoder with learned positions."""

import chz
from flax import linen as nn

from ptjax.models.base import TextModelConfig, gelu_tanh, presets
from ptjax.models.feed_forward import feed_forward
from ptjax.nn.attention import Attention
from ptjax.nn.dropout import Dropout
from ptjax.nn.embed import TextEmbed
from ptjax.nn.norm import LayerNorm
from ptjax.nn.stack import Stack
from ptjax.partition import constrain
from ptjax.types import Array, Hidden, PyTree, TextInput

# Radford et al., 2019, by the parameter counts of the released models; the smaller ones have BERT's small shapes.
SIZES = {
    "tiny": dict(layers=2, width=128, heads=2, hidden=512),
    "mini": dict(layers=4, width=256, heads=4, hidden=1024),
    "small": dict(layers=4, width=512, heads=8, hidden=2048),
    "124M": dict(layers=12, width=768, heads=12, hidden=3072),
    "355M": dict(layers=24, width=1024, heads=16, hidden=4096),
    "774M": dict(layers=36, width=1280, heads=20, hidden=5120),
    "1.5B": dict(layers=48, width=1600, heads=25, hidden=6400),
}


@chz.chz
class GPT(TextModelConfig):
    """GPT-2's body, without the output projection. Whether it looks left only is in the mask, the objective's."""

    max_length: int = chz.field(default=1024, doc="rows of the position table: the longest sequence")
    position_std: float = chz.field(default=0.01, doc="standard deviation of initial position embeddings")
    epsilon: float = chz.field(default=1e-5, doc="of the layer norms")

    @classmethod
    def preset(cls, size: str, **overrides) -> "GPT":
        """124M, 355M, 774M, 1.5B as published; tiny, mini and small for a laptop."""
        return presets(cls, SIZES, size, overrides)

    @property
    def mixes(self) -> bool:
        return True

    def build(self, vocab_size: int) -> nn.Module:
        return Body(self, vocab_size)


class Block(nn.Module):
    config: GPT

    def setup(self):
        c, dtype = self.config, self.config.compute_dtype()
        # Kernels that write to the residual stream start smaller by the number of such writes.
        out_std = c.std * (2 * c.layers) ** -0.5
        self.attention_norm = LayerNorm(c.epsilon, dtype)
        self.attention = Attention(c.width, c.heads, c.attention_dropout, c.std, out_std, dtype)
        self.mlp_norm = LayerNorm(c.epsilon, dtype)
        self.mlp = feed_forward(c, gelu_tanh, c.std, out_std)
        self.drop = Dropout(c.dropout)

    def __call__(self, x_BLD: Array, mask, cache: PyTree, train: bool) -> tuple[Array, PyTree]:
        drop = lambda y: self.drop(y, deterministic=not train)
        y_BLD, cache = self.attention(self.attention_norm(x_BLD), mask, cache, train=train)
        x_BLD = x_BLD + drop(y_BLD)
        x_BLD = x_BLD + drop(self.mlp(self.mlp_norm(x_BLD), mask.valid, train=train))
        return constrain(x_BLD, "batch", "length", "embed_activation"), cache


class Body(nn.Module):
    config: GPT
    vocab_size: int

    def setup(self):
        c, dtype = self.config, self.config.compute_dtype()
        self.embed = TextEmbed(self.vocab_size, c.width, c.max_length, 0, c.std, c.position_std, dtype)
        self.drop = Dropout(c.dropout)
        self.layers = Stack(Block(c, parent=None), c.layers, c.unrolled(), c.remat)
        self.norm = LayerNorm(c.epsilon, dtype)

    def __call__(
        self, inputs: TextInput, state: PyTree = None, *, train: bool, embedded: Array | None = None
    ) -> Hidden:
        x_BLD = self.drop(self.embed(inputs) if embedded is None else embedded, deterministic=not train)
        x_BLD = constrain(x_BLD, "batch", "length", "embed_activation")
        x_BLD, state = self.layers(x_BLD, inputs.mask, state, train)
        return Hidden(self.norm(x_BLD), state)

    def embedding(self, inputs: TextInput) -> Array:
        return self.embed(inputs)

    def table(self) -> Array:
        return self.embed.table()
