"""BERT (Devlin et al., 2019): a post-norm transformer encoder with learned positions and sentence types.

RoBERTa, ALBERT and ELECTRA are this body too, with what their configs say of the properties below.
"""

import chz
import jax.numpy as jnp
from flax import linen as nn

from ptjax.models.base import TextModelConfig, gelu, presets
from ptjax.models.feed_forward import feed_forward
from ptjax.nn.attention import Attention
from ptjax.nn.dropout import Dropout
from ptjax.nn.embed import TextEmbed
from ptjax.nn.linear import Linear
from ptjax.nn.norm import LayerNorm
from ptjax.nn.stack import Stack
from ptjax.partition import constrain
from ptjax.types import Array, Hidden, PyTree, TextInput

# Turc et al., 2019 (tiny to medium) and Devlin et al., 2019 (base, large).
SIZES = {
    "tiny": dict(layers=2, width=128, heads=2, hidden=512),
    "mini": dict(layers=4, width=256, heads=4, hidden=1024),
    "small": dict(layers=4, width=512, heads=8, hidden=2048),
    "medium": dict(layers=8, width=512, heads=8, hidden=2048),
    "base": dict(layers=12, width=768, heads=12, hidden=3072),
    "large": dict(layers=24, width=1024, heads=16, hidden=4096),
}


@chz.chz
class BERT(TextModelConfig):
    """BERT's body, without pooler and heads."""

    types: int = chz.field(default=2, doc="sentence types (segment embeddings)")

    @classmethod
    def preset(cls, size: str, **overrides) -> "BERT":
        """tiny, mini, small, medium, base or large."""
        return presets(cls, SIZES, size, overrides)

    @property
    def projects(self) -> bool:
        """Whether a dense layer leads from the embedding's width to the body's."""
        return self.table_width != self.width

    @property
    def shares(self) -> bool:
        """Whether all layers have the same parameters."""
        return False

    @property
    def mixes(self) -> bool:
        return True

    def activation(self, x: Array) -> Array:
        """Of the feed-forward part."""
        return gelu(x)

    def flops_per_token(self, length: int) -> float:
        projection = 2.0 * self.table_width * self.width if self.projects else 0.0
        return super().flops_per_token(length) + projection

    def build(self, vocab_size: int) -> nn.Module:
        return Body(self, vocab_size)


class Block(nn.Module):
    config: BERT

    def setup(self):
        c, dtype = self.config, self.config.compute_dtype()
        self.attention = Attention(c.width, c.heads, c.attention_dropout, c.std, c.std, dtype)
        self.attention_norm = LayerNorm(c.epsilon, dtype)
        self.mlp = feed_forward(c, c.activation, c.std, c.std)
        self.mlp_norm = LayerNorm(c.epsilon, dtype)
        self.drop = Dropout(c.dropout)

    def __call__(self, x_BLD: Array, mask, cache: PyTree, train: bool) -> tuple[Array, PyTree]:
        drop = lambda y: self.drop(y, deterministic=not train)
        y_BLD, cache = self.attention(x_BLD, mask, cache, train=train)
        x_BLD = self.attention_norm(x_BLD + drop(y_BLD))
        x_BLD = self.mlp_norm(x_BLD + drop(self.mlp(x_BLD, mask.valid, train=train)))
        return constrain(x_BLD, "batch", "length", "embed_activation"), cache


class Body(nn.Module):
    config: BERT
    vocab_size: int

    def setup(self):
        c, dtype = self.config, self.config.compute_dtype()
        self.embed = TextEmbed(
            self.vocab_size, c.table_width, c.max_length, c.types, c.std, c.std, jnp.float32, c.first_position
        )
        self.embed_norm = LayerNorm(c.epsilon, dtype)
        self.drop = Dropout(c.dropout)
        if c.projects:
            self.projection = Linear((c.table_width, c.width), ("embed_out", "embed"), c.std, dtype=dtype)
        stack = Stack(Block(c, parent=None), c.layers, c.unrolled(), c.remat, c.shares)
        if c.shares:  # another name: the leaves below "layers" have an axis that counts them
            self.layer = stack
        else:
            self.layers = stack

    def __call__(
        self, inputs: TextInput, state: PyTree = None, *, train: bool, embedded: Array | None = None
    ) -> Hidden:
        x_BLE = self.embed(inputs) if embedded is None else embedded
        x_BLE = self.drop(self.embed_norm(x_BLE), deterministic=not train)
        x_BLD = self.projection(x_BLE) if self.config.projects else x_BLE
        x_BLD = constrain(x_BLD, "batch", "length", "embed_activation")
        layers = self.layer if self.config.shares else self.layers
        x_BLD, state = layers(x_BLD, inputs.mask, state, train)
        return Hidden(x_BLD, state)

    def embedding(self, inputs: TextInput) -> Array:
        return self.embed(inputs)

    def table(self) -> Array:
        return self.embed.table()
