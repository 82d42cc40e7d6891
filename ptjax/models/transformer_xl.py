"""Transformer-XL (Dai et al., 2019): relative positions, and a memory of the rows before."""

from collections.abc import Callable

import chz
import jax
import jax.numpy as jnp
from flax import linen as nn

from ptjax.models.base import TextModelConfig, presets
from ptjax.nn.attention import Cache
from ptjax.nn.dropout import Dropout
from ptjax.nn.embed import TextEmbed
from ptjax.nn.mlp import Mlp
from ptjax.nn.norm import LayerNorm
from ptjax.nn.relative import RelativeAttention, Relations, relate
from ptjax.nn.stack import Stack
from ptjax.partition import constrain
from ptjax.types import Array, Hidden, Mask, Memory, PyTree, TextInput

# Dai et al., 2019, for WikiText-103 and, by characters, enwik8, with the memories and dropout of their scripts; BERT's
# small shapes for a laptop.
SIZES = {
    "tiny": dict(layers=2, width=128, heads=2, hidden=512),
    "mini": dict(layers=4, width=256, heads=4, hidden=1024),
    "small": dict(layers=4, width=512, heads=8, hidden=2048),
    "wt103": dict(layers=16, width=410, heads=10, hidden=2100, memory=150, attention_dropout=0.0),
    "large": dict(layers=18, width=1024, heads=16, hidden=4096, memory=384, dropout=0.2, attention_dropout=0.2),
    "enwik8-12": dict(layers=12, width=512, heads=8, hidden=2048, memory=512, attention_dropout=0.0),
    "enwik8-24": dict(layers=24, width=1024, heads=8, hidden=3072, memory=768, dropout=0.15, attention_dropout=0.15),
}


@chz.chz
class TransformerXL(TextModelConfig):
    """Transformer-XL's body: post-norm, ReLU, with u and v of each layer's own (untied, as in the larger models).

    Not included are the adaptive softmax and the adaptive embedding, which belong to a vocabulary of words. Without
    a memory it is a transformer with relative positions, whichever way its mask lets it look. It knows no sentence
    types.
    """

    memory: int = chz.field(default=0, doc="positions of earlier rows that each layer keeps; 0: none")
    max_length: int = chz.field(default=512, doc="the longest text to sample; rows may have any length")
    epsilon: float = chz.field(default=1e-5, doc="of the layer norms")

    @chz.validate
    def _memory(self):
        if self.memory < 0:
            raise ValueError(f"memory must be at least 0, not {self.memory}")

    @classmethod
    def preset(cls, size: str, **overrides) -> "TransformerXL":
        """wt103, large, enwik8-12 and enwik8-24 as published; tiny, mini and small for a laptop, without a memory."""
        return presets(cls, SIZES, size, overrides)

    @property
    def memory_length(self) -> int:
        return self.memory

    def check_length(self, length: int) -> None:
        """Any will do: no parameter belongs to a position."""

    def flops_per_token(self, length: int) -> float:
        """As of any transformer, with attention to memory and row, half as much again for the scores by distance (of
        keys that come first), and keys and values of the memory."""
        dense = super().flops_per_token(length) - 4.0 * self.layers * length * self.width
        attention = 6.0 * self.layers * (length + self.memory) * self.width
        return dense + attention + 4.0 * self.layers * self.width**2 * self.memory / length

    def build(self, vocab_size: int) -> nn.Module:
        return Body(self, vocab_size)


class Block(nn.Module):
    """A post-norm layer over the row and, where there is one, a second stream of queries (XLNet's)."""

    config: TextModelConfig
    activation: Callable[[Array], Array]
    types: bool

    def setup(self):
        c, dtype = self.config, self.config.compute_dtype()
        self.attention = RelativeAttention(c.width, c.heads, c.attention_dropout, c.std, self.types, dtype)
        self.attention_norm = LayerNorm(c.epsilon, dtype)
        self.mlp = Mlp(c.width, c.hidden, self.activation, c.std, c.std, dtype, dropout=c.dropout)
        self.mlp_norm = LayerNorm(c.epsilon, dtype)
        self.drop = Dropout(c.dropout)

    def __call__(self, streams: tuple[Array, Array | None], relations: Relations, cache: PyTree, train: bool):
        *attended, cache = self.attention(*streams, relations, cache, train=train)

        def rest(x_BLD, y_BLD):
            drop = lambda y: self.drop(y, deterministic=not train)
            x_BLD = self.attention_norm(x_BLD + drop(y_BLD))
            x_BLD = self.mlp_norm(x_BLD + drop(self.mlp(x_BLD, train=train)))
            return constrain(x_BLD, "batch", "length", "embed_activation")

        return tuple(None if x is None else rest(x, y) for x, y in zip(streams, attended)), cache


class Body(nn.Module):
    config: TransformerXL
    vocab_size: int

    def setup(self):
        c = self.config
        self.embed = TextEmbed(self.vocab_size, c.width, 0, 0, c.std, c.std, jnp.float32)
        self.drop = Dropout(c.dropout)
        self.layers = Stack(Block(c, jax.nn.relu, False, parent=None), c.layers, c.unrolled(), c.remat)

    def __call__(
        self, inputs: TextInput, state: Memory | Cache | None = None, *, train: bool, embedded: Array | None = None
    ) -> Hidden:
        """state: a memory, of which no gradient is taken and which is returned brought up to date; a cache; or None.

        An open memory belongs to the document with which the row begins. The body knows documents by their segments
        alone: who reads tokens closes a memory where a document ends with the row, or begins with it.
        """
        drop = lambda x: self.drop(x, deterministic=not train)
        x_BLD = self.embedding(inputs) if embedded is None else embedded
        x_BLD = constrain(drop(x_BLD.astype(self.config.compute_dtype())), "batch", "length", "embed_activation")
        relations = relate(inputs.replace(types=None), self.config.width, state)
        relations = relations.replace(encodings=drop(relations.encodings))
        cache = state
        if isinstance(state, Memory):
            cache = jax.lax.stop_gradient(state.hidden).swapaxes(0, 1)
        (x_BLD, _), cache = self.layers((x_BLD, None), relations, cache, train)
        if isinstance(state, Memory):
            cache = Memory(cache.swapaxes(0, 1), _still_open(inputs.mask, state.open, x_BLD.shape[1]), state.index)
        return Hidden(drop(x_BLD), cache)

    def embedding(self, inputs: TextInput) -> Array:
        return self.embed(inputs) * self.config.width**0.5

    def table(self) -> Array:
        return self.embed.table()


def _still_open(mask: Mask, open_BM: Array, length: int) -> Array:
    """bool[B, M]: which of the last M positions of memory and row are of the document at the row's end."""
    row_BL = jnp.ones((open_BM.shape[0], length), bool)
    if mask.segments is not None:
        row_BL = mask.segments == mask.segments[:, -1:]
    open_BM &= row_BL[:, :1]
    if mask.valid is not None:
        row_BL &= mask.valid
    return jnp.concatenate([open_BM, row_BL], axis=1)[:, -open_BM.shape[1] :]
