"""DeBERTa v2 and v3 (He et al., 2021, 2023): a post-norm encoder that knows places by their distances alone."""

import chz
import jax.numpy as jnp
from flax import linen as nn

from ptjax.models.base import TextModelConfig, gelu, presets
from ptjax.nn.attention import Cache
from ptjax.nn.disentangled import DisentangledAttention, Distances, apart, distances, neighbours
from ptjax.nn.dropout import Dropout
from ptjax.nn.embed import TextEmbed
from ptjax.nn.linear import Linear
from ptjax.nn.mlp import Mlp
from ptjax.nn.norm import LayerNorm
from ptjax.nn.stack import Stack, checkpointed
from ptjax.partition import constrain
from ptjax.types import Array, Hidden, Memory, PyTree, TextInput

# DeBERTaV3 (He et al., 2023) and, with a convolution, the second version, by the configs of the released models.
SIZES = {
    "xsmall": dict(layers=12, width=384, heads=6, hidden=1536),
    "small": dict(layers=6, width=768, heads=12, hidden=3072),
    "base": dict(layers=12, width=768, heads=12, hidden=3072),
    "large": dict(layers=24, width=1024, heads=16, hidden=4096),
    "v2-xlarge": dict(layers=24, width=1536, heads=24, hidden=6144, taps=3),
    "v2-xxlarge": dict(layers=48, width=1536, heads=24, hidden=6144, taps=3),
}


@chz.chz
class DeBERTa(TextModelConfig):
    """DeBERTa's body, without the enhanced mask decoder, which the released models of these versions do not have.

    Every layer reads one table of distances, normed, through kernels of its own. Padding is not set to zero where it
    is embedded: nothing sees it.
    """

    buckets: int = chz.field(default=256, doc="of distances, on either side; 0: one for each distance")
    furthest: int = chz.field(default=512, doc="from this distance on all are alike (max_relative_positions)")
    absolute: bool = chz.field(default=False, doc="whether embeddings of positions are added to the input")
    types: int = chz.field(default=0, doc="sentence types (segment embeddings)")
    taps: int = chz.field(default=0, doc="of the convolution beside the first layer, an odd number; 0: none")
    max_length: int = chz.field(default=512, doc="the longest text to sample; rows may have any length if not absolute")
    epsilon: float = chz.field(default=1e-7, doc="of the layer norms")

    @chz.validate
    def _distances(self):
        if self.buckets < 0 or self.buckets % 2 or self.furthest < 1:
            raise ValueError(
                f"buckets={self.buckets}, furthest={self.furthest}: buckets is an even number or 0, furthest at least 1"
            )
        if self.buckets and self.furthest <= self.buckets // 2 + 1:
            raise ValueError(
                f"furthest={self.furthest} is within the {self.buckets // 2} distances that buckets={self.buckets} "
                "tells apart: make it larger, or set buckets=0"
            )
        if self.taps < 0 or (self.taps and not self.taps % 2):
            raise ValueError(f"taps must be an odd number, or 0, not {self.taps}")
        if self.taps and self.layers < 2:
            raise ValueError("a convolution (taps) stands beside the first of at least two layers")

    @classmethod
    def preset(cls, size: str, **overrides) -> "DeBERTa":
        """xsmall, small, base or large of the third version; v2-xlarge or v2-xxlarge."""
        return presets(cls, SIZES, size, overrides)

    def check_length(self, length: int) -> None:
        """Any will do where no parameter belongs to a position."""
        if self.absolute:
            super().check_length(length)

    def for_rows(self, length: int) -> "DeBERTa":
        buckets = min(self.buckets, 2 * max(1, length // 8))
        return chz.replace(self, buckets=buckets, furthest=min(self.furthest, max(length // 2, buckets // 2 + 2)))

    def flops_per_token(self, length: int) -> float:
        """As of any transformer, with two scores for each bucket that such a row needs, and the convolution."""
        vectors = min(2 * length, 2 * (self.buckets or self.furthest))
        convolution = 2.0 * self.taps * (self.width + length) * self.width
        return super().flops_per_token(length) + 4.0 * self.layers * vectors * self.width + convolution

    def build(self, vocab_size: int) -> nn.Module:
        return Body(self, vocab_size)


class Block(nn.Module):
    config: DeBERTa

    def setup(self):
        c, dtype = self.config, self.config.compute_dtype()
        self.attention = DisentangledAttention(c.width, c.heads, c.attention_dropout, c.dropout, c.std, dtype)
        self.attention_norm = LayerNorm(c.epsilon, dtype)
        self.mlp = Mlp(c.width, c.hidden, gelu, c.std, c.std, dtype)
        self.mlp_norm = LayerNorm(c.epsilon, dtype)
        self.drop = Dropout(c.dropout)

    def __call__(self, x_BLD: Array, distances: Distances, cache: PyTree, train: bool) -> tuple[Array, PyTree]:
        drop = lambda y: self.drop(y, deterministic=not train)
        y_BLD, cache = self.attention(x_BLD, distances, cache, train=train)
        x_BLD = self.attention_norm(x_BLD + drop(y_BLD))
        x_BLD = self.mlp_norm(x_BLD + drop(self.mlp(x_BLD)))
        return constrain(x_BLD, "batch", "length", "embed_activation"), cache


class Body(nn.Module):
    config: DeBERTa
    vocab_size: int

    def setup(self):
        c, dtype = self.config, self.config.compute_dtype()
        positions = c.max_length if c.absolute else 0
        self.embed = TextEmbed(self.vocab_size, c.width, positions, c.types, c.std, c.std, jnp.float32)
        self.embed_norm = LayerNorm(c.epsilon, dtype)
        init = nn.with_logical_partitioning(nn.initializers.normal(c.std), ("bucket", "table"))
        self.distances = self.param("distances", init, (2 * (c.buckets or c.furthest), c.width), jnp.float32)
        self.distances_norm = LayerNorm(c.epsilon, dtype)
        self.drop = Dropout(c.dropout)
        if c.taps:
            self.first = checkpointed(Block, c.remat)(c)
            self.convolution = Linear((c.width, c.taps, c.width), ("embed", "tap", "embed_out"), c.std, 2, dtype=dtype)
            self.convolution_norm = LayerNorm(c.epsilon, dtype)
        self.layers = Stack(Block(c, parent=None), c.layers - bool(c.taps), c.unrolled(), c.remat)

    def __call__(
        self, inputs: TextInput, state: Cache | None = None, *, train: bool, embedded: Array | None = None
    ) -> Hidden:
        """Raises ValueError for a memory, and for a cache where there is a convolution."""
        c = self.config
        if isinstance(state, Memory):
            raise ValueError("DeBERTa keeps no memory: TransformerXL does")
        if c.taps and state is not None:
            raise ValueError("a key-value cache does not hold what a convolution reads: sample from a body with taps=0")
        drop = lambda x: self.drop(x, deterministic=not train)
        x_BLD = self.embed(inputs) if embedded is None else embedded
        x_BLD = constrain(drop(self.embed_norm(x_BLD)), "batch", "length", "embed_activation")
        vectors_TD = self.distances_norm(self.distances)
        related = distances(inputs, vectors_TD, state, buckets=c.buckets, furthest=c.furthest)
        if c.taps:
            read_BLDW = neighbours(x_BLD, related.allowed, apart(inputs), c.taps)
            x_BLD, _ = self.first(x_BLD, related, None, train)
            x_BLD = self.convolution_norm(x_BLD + gelu(drop(self.convolution(read_BLDW))))
        x_BLD, state = self.layers(x_BLD, related, state, train)
        return Hidden(x_BLD, state)

    def embedding(self, inputs: TextInput) -> Array:
        return self.embed(inputs)

    def table(self) -> Array:
        return self.embed.table()
