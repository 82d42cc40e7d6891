"""ModernBERT (Warner et al., 2024): a pre-norm encoder with rotary positions, GeGLU, and a window in most layers."""

from typing import Literal

import chz
import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from ptjax.models.base import TextModelConfig, gelu, presets
from ptjax.nn.attention import Attention, Cache
from ptjax.nn.dropout import Dropout
from ptjax.nn.embed import TextEmbed
from ptjax.nn.mlp import Mlp
from ptjax.nn.norm import LayerNorm
from ptjax.nn.rope import Rotation, frequencies_of, rotation
from ptjax.nn.stack import Stack, checkpointed
from ptjax.partition import constrain
from ptjax.types import Array, Hidden, Mask, PyTree, TextInput

# Warner et al., 2024, appendix; the smaller ones have BERT's small shapes with 1.5 gated units a width, as base.
SIZES = {
    "tiny": dict(layers=2, width=128, heads=2, hidden=192),
    "mini": dict(layers=4, width=256, heads=4, hidden=384),
    "small": dict(layers=4, width=512, heads=8, hidden=768),
    "base": dict(layers=22, width=768, heads=12, hidden=1152),
    "large": dict(layers=28, width=1024, heads=16, hidden=2624),
}


@chz.chz
class ModernBERT(TextModelConfig):
    """ModernBERT's body: no biases, a norm behind the embedding instead of before the first attention.

    Initial kernels that write to the residual stream are smaller by sqrt(2 layers), as in Megatron; the authors also
    cut off what lies beyond two deviations, and start the large model from the base one. It knows no sentence types.
    """

    layers: int = chz.field(default=22, doc="transformer layers")
    hidden: int = chz.field(default=1152, doc="gated units of the feed-forward part")
    every: int = chz.field(default=3, doc="every so many layers, from the first on, attend to all: the global ones")
    window: int = chz.field(default=128, doc="the other layers, the local ones, attend to half of it on either side")
    global_theta: float = chz.field(default=160_000.0, doc="base of the rotary wavelengths in global layers")
    local_theta: float = chz.field(default=10_000.0, doc="base of the rotary wavelengths in local layers")
    max_length: int = chz.field(default=8192, doc="the longest text to sample; rows may have any length")
    dropout: float = chz.field(default=0.0, doc="dropout of what attention adds; 0.1 in the authors' training")
    attention_dropout: float = chz.field(default=0.0, doc="dropout of attention probabilities")
    mlp_dropout: float = chz.field(default=0.0, doc="dropout of the gated units")
    embedding_dropout: float = chz.field(default=0.0, doc="dropout of embeddings")
    epsilon: float = chz.field(default=1e-5, doc="of the layer norms")
    head_unit: Literal["gelu", "silu"] = chz.field(default="gelu", doc="activation of a masked language model's head")

    @chz.validate
    def _layers(self):
        for name in ("every", "window"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("global_theta", "local_theta"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("mlp_dropout", "embedding_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), not {getattr(self, name)}")

    @classmethod
    def preset(cls, size: str, **overrides) -> "ModernBERT":
        """base and large as published; tiny, mini and small for a laptop."""
        return presets(cls, SIZES, size, overrides)

    def check_heads(self) -> None:
        super().check_heads()
        size = self.width // self.heads
        if size % 2:
            raise ValueError(f"heads of size {size} cannot turn: width / heads must be even")

    @property
    def head_bias(self) -> bool:
        return False

    def head_activation(self, x: Array) -> Array:
        return gelu(x) if self.head_unit == "gelu" else jax.nn.silu(x)

    def is_global(self, layer: int) -> bool:
        return layer % self.every == 0

    def check_length(self, length: int) -> None:
        """Any will do: no parameter belongs to a position."""

    def for_rows(self, length: int) -> "ModernBERT":
        return chz.replace(self, window=min(self.window, max(1, length // 4)))

    def flops_per_token(self, length: int) -> float:
        """By the convention of `TextModelConfig`: three matrices of the feed-forward part, and in local layers only
        the keys of the window."""
        seen = sum(length if self.is_global(i) else min(length, 2 * (self.window // 2) + 1) for i in range(self.layers))
        kernels = self.layers * (4 * self.width**2 + 3 * self.width * self.hidden)
        return 2.0 * kernels + 4.0 * seen * self.width

    def build(self, vocab_size: int) -> nn.Module:
        return Body(self, vocab_size)


@struct.dataclass
class Shared:
    """What all layers read. positions: i32[B, L], by which windows count in a scattered row, or None."""

    mask: Mask
    globally: Rotation
    locally: Rotation
    positions: Array | None


class Block(nn.Module):
    """One layer. normed: with a norm before attention, as all but the first have."""

    config: ModernBERT
    is_global: bool
    normed: bool = True

    def setup(self):
        c, dtype = self.config, self.config.compute_dtype()
        out_std = c.std * (2 * c.layers) ** -0.5
        if self.normed:
            self.attention_norm = LayerNorm(c.epsilon, dtype, use_bias=False)
        self.attention = Attention(
            c.width,
            c.heads,
            c.attention_dropout,
            c.std,
            out_std,
            dtype,
            use_bias=False,
            out_bias=False,
            window=None if self.is_global else c.window // 2 + 1,
        )
        self.mlp_norm = LayerNorm(c.epsilon, dtype, use_bias=False)
        self.mlp = Mlp(
            c.width, c.hidden, gelu, c.std, out_std, dtype, gated=True, use_bias=False, dropout=c.mlp_dropout
        )
        self.drop = Dropout(c.dropout)

    def __call__(self, x_BLD: Array, shared: Shared, cache: PyTree, train: bool) -> tuple[Array, PyTree]:
        turn = shared.globally if self.is_global else shared.locally
        y_BLD = self.attention_norm(x_BLD) if self.normed else x_BLD
        y_BLD, cache = self.attention(y_BLD, shared.mask, cache, turn, shared.positions, train=train)
        x_BLD = x_BLD + self.drop(y_BLD, deterministic=not train)
        x_BLD = x_BLD + self.mlp(self.mlp_norm(x_BLD), train=train)
        return constrain(x_BLD, "batch", "length", "embed_activation"), cache


class Group(nn.Module):
    """`count` layers that follow a global one: `every` of them end with the next global one. cache: leaves have a
    leading axis of layers, or None."""

    config: ModernBERT
    count: int

    def setup(self):
        self.blocks = [Block(self.config, self.config.is_global(1 + i)) for i in range(self.count)]

    def __call__(self, x_BLD: Array, shared: Shared, cache: PyTree, train: bool) -> tuple[Array, PyTree]:
        caches = []
        for i, block in enumerate(self.blocks):
            x_BLD, one = block(x_BLD, shared, jax.tree.map(lambda leaf: leaf[i], cache), train)
            caches.append(one)
        return x_BLD, jax.tree.map(lambda *leaves: jnp.stack(leaves), *caches)


class Body(nn.Module):
    """The first layer, equal groups of `every` layers behind it (`layers`), and those that are too few for a group
    (`rest`): so whether a layer is global, and its window, are known when it is compiled."""

    config: ModernBERT
    vocab_size: int

    def setup(self):
        c, dtype = self.config, self.config.compute_dtype()
        self.embed = TextEmbed(self.vocab_size, c.width, 0, 0, c.std, c.std, jnp.float32)
        self.embed_norm = LayerNorm(c.epsilon, dtype, use_bias=False)
        self.drop = Dropout(c.embedding_dropout)
        self.groups, rest = divmod(c.layers - 1, c.every)
        self.first = checkpointed(Block, c.remat)(c, is_global=True, normed=False)
        if self.groups:
            self.layers = Stack(Group(c, c.every, parent=None), self.groups, c.unrolled(), c.remat)
        if rest:
            self.rest = checkpointed(Group, c.remat)(c, rest)
        self.norm = LayerNorm(c.epsilon, dtype, use_bias=False)

    def __call__(
        self, inputs: TextInput, state: Cache | None = None, *, train: bool, embedded: Array | None = None
    ) -> Hidden:
        c = self.config
        x_BLD = self.embed_norm(self.embed(inputs) if embedded is None else embedded)
        x_BLD = constrain(self.drop(x_BLD, deterministic=not train), "batch", "length", "embed_activation")
        turn = lambda theta: rotation(inputs.positions, frequencies_of(c.width // c.heads, theta))
        positions = inputs.positions if inputs.scattered else None
        shared = Shared(inputs.mask, turn(c.global_theta), turn(c.local_theta), positions)
        # A cache counts layers in its leading axis.
        grouped = self.groups * c.every
        part = lambda *index: jax.tree.map(lambda leaf: leaf[index], state)
        x_BLD, first = self.first(x_BLD, shared, part(0), train)
        caches = [jax.tree.map(lambda leaf: leaf[None], first)]
        if self.groups:
            cache = jax.tree.map(lambda leaf: leaf.reshape(-1, c.every, *leaf.shape[1:]), part(slice(1, 1 + grouped)))
            x_BLD, cache = self.layers(x_BLD, shared, cache, train)
            caches.append(jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), cache))
        if 1 + grouped < c.layers:
            x_BLD, cache = self.rest(x_BLD, shared, part(slice(1 + grouped, None)), train)
            caches.append(cache)
        state = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *caches)
        return Hidden(self.norm(x_BLD), state)

    def embedding(self, inputs: TextInput) -> Array:
        return self.embed(inputs)

    def table(self) -> Array:
        return self.embed.table()
