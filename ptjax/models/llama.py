"""Llama (Touvron et al., 2023) and what was made after it: Qwen2, Qwen3, Mistral. RMSNorm, rotary positions, SwiGLU."""

import abc
import math

import chz
import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from ptjax.config import Config
from ptjax.models.base import TextModelConfig, presets
from ptjax.models.feed_forward import Experts, feed_forward
from ptjax.nn.attention import Attention
from ptjax.nn.dropout import Dropout
from ptjax.nn.embed import TextEmbed
from ptjax.nn.norm import RMSNorm
from ptjax.nn.rope import Rotation, frequencies_of, rotation
from ptjax.nn.stack import Stack
from ptjax.partition import constrain
from ptjax.types import Array, Hidden, Mask, PyTree, TextInput


@chz.chz
class RopeScaling(Config, abc.ABC):
    """How a model reads texts longer than those it was first trained on: by turning more slowly."""

    factor: float = chz.field(default=8.0, doc="by what frequencies are divided")

    @chz.validate
    def _longer(self):
        if not self.factor >= 1:
            raise ValueError(f"factor={self.factor} must be at least 1: it divides frequencies")

    @abc.abstractmethod
    def scaled(self, frequencies_F: Array) -> Array:
        """f32[K / 2], radians a position -> the same, scaled."""


@chz.chz
class LinearScaling(RopeScaling):
    """All frequencies alike (Chen et al., 2023)."""

    def scaled(self, frequencies_F):
        return frequencies_F / self.factor


@chz.chz
class Llama3Scaling(RopeScaling):
    """Low frequencies alone, and those between low and high in part (Llama 3.1; Grattafiori et al., 2024)."""

    low_freq_factor: float = chz.field(default=1.0, doc="turns in original_length, below which all is divided")
    high_freq_factor: float = chz.field(default=4.0, doc="turns in original_length, above which nothing is")
    original_length: int = chz.field(default=8192, doc="length of the texts that it was first trained on")

    @chz.validate
    def _ordered(self):
        if not 0 < self.low_freq_factor < self.high_freq_factor:
            raise ValueError(
                f"low_freq_factor={self.low_freq_factor} must be above 0 and below high_freq_factor="
                f"{self.high_freq_factor}"
            )

    def scaled(self, frequencies_F):
        turns_F = self.original_length * frequencies_F / (2 * jnp.pi)
        kept_F = (turns_F - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        kept_F = jnp.clip(kept_F, 0.0, 1.0)
        return (1 - kept_F) * frequencies_F / self.factor + kept_F * frequencies_F


LLAMA = dict(epsilon=1e-5, theta=1e4)
LLAMA3 = dict(epsilon=1e-5, theta=5e5, kv_heads=8, max_length=131072)
QWEN2 = dict(epsilon=1e-6, theta=1e6, qkv_bias=True)
QWEN3 = dict(epsilon=1e-6, theta=1e6, qk_norm=True, kv_heads=8, head_dim=128, max_length=40960)
# As released (config.json beside the weights); the smaller ones have BERT's small shapes, with units for three kernels.
SIZES = {
    "tiny": dict(layers=2, width=128, heads=2, hidden=344),
    "mini": dict(layers=4, width=256, heads=4, hidden=688),
    "small": dict(layers=4, width=512, heads=8, hidden=1376),
    "tinyllama-1.1B": LLAMA | dict(layers=22, width=2048, heads=32, kv_heads=4, hidden=5632),
    "llama2-7B": LLAMA | dict(layers=32, width=4096, heads=32, hidden=11008, max_length=4096),
    "llama2-13B": LLAMA | dict(layers=40, width=5120, heads=40, hidden=13824, max_length=4096),
    "llama2-70B": LLAMA | dict(layers=80, width=8192, heads=64, kv_heads=8, hidden=28672, max_length=4096),
    "llama3.1-8B": LLAMA3 | dict(layers=32, width=4096, heads=32, hidden=14336, scaling=Llama3Scaling(factor=8.0)),
    "llama3.1-70B": LLAMA3 | dict(layers=80, width=8192, heads=64, hidden=28672, scaling=Llama3Scaling(factor=8.0)),
    "llama3.2-1B": LLAMA3
    | dict(layers=16, width=2048, heads=32, hidden=8192, scaling=Llama3Scaling(factor=32.0), tied=True),
    "llama3.2-3B": LLAMA3
    | dict(layers=28, width=3072, heads=24, hidden=8192, scaling=Llama3Scaling(factor=32.0), tied=True),
    "mistral-7B": LLAMA
    | dict(layers=32, width=4096, heads=32, kv_heads=8, hidden=14336, window=4096, max_length=32768),
    "mixtral-8x7B": LLAMA
    | dict(layers=32, width=4096, heads=32, kv_heads=8, hidden=14336, theta=1e6, max_length=32768)
    | dict(experts=Experts(count=8, chosen=2, balance=0.02, router_z=0.0)),
    "qwen2.5-0.5B": QWEN2 | dict(layers=24, width=896, heads=14, kv_heads=2, hidden=4864, tied=True, max_length=32768),
    "qwen2.5-1.5B": QWEN2
    | dict(layers=28, width=1536, heads=12, kv_heads=2, hidden=8960, tied=True, max_length=131072),
    "qwen2.5-3B": QWEN2 | dict(layers=36, width=2048, heads=16, kv_heads=2, hidden=11008, tied=True, max_length=32768),
    "qwen2.5-7B": QWEN2 | dict(layers=28, width=3584, heads=28, kv_heads=4, hidden=18944, max_length=131072),
    "qwen3-0.6B": QWEN3 | dict(layers=28, width=1024, heads=16, hidden=3072, tied=True),
    "qwen3-1.7B": QWEN3 | dict(layers=28, width=2048, heads=16, hidden=6144, tied=True),
    "qwen3-4B": QWEN3 | dict(layers=36, width=2560, heads=32, hidden=9728, tied=True),
    "qwen3-8B": QWEN3 | dict(layers=36, width=4096, heads=32, hidden=12288),
    "qwen3-30B-A3B": QWEN3
    | dict(layers=48, width=2048, heads=32, kv_heads=4, hidden=768)
    | dict(experts=Experts(count=128, chosen=8, balance=0.001, router_z=0.0)),
}


@chz.chz
class Llama(TextModelConfig):
    """A decoder's body, without the output projection: pre-norm by RMSNorm, rotary positions, SwiGLU, and no biases but
    those that are asked for. Whether it looks left only is in the mask, the objective's.

    The papers give no initial deviations: these are GPT-2's.
    """

    hidden: int = chz.field(default=2048, doc="units of the feed-forward part, which has three kernels")
    kv_heads: int | None = chz.field(default=None, doc="heads of keys and values, shared by the queries'; None: heads")
    head_dim: int | None = chz.field(default=None, doc="size of an attention head; None: width / heads")
    theta: float = chz.field(default=1e4, doc="rotary positions: the slowest turn takes nearly 2 pi theta positions")
    scaling: RopeScaling | None = chz.field(
        default=None, meta_factory=chz.factories.subclass(RopeScaling), doc="LinearScaling, Llama3Scaling or None"
    )
    qkv_bias: bool = chz.field(default=False, doc="biases of queries, keys and values (Qwen2)")
    qk_norm: bool = chz.field(default=False, doc="RMSNorm of each query and key before it turns (Qwen3)")
    window: int | None = chz.field(default=None, doc="so many tokens are seen, itself and those before (Mistral)")
    max_length: int = chz.field(default=2048, doc="the longest text to sample; rows may have any length")
    dropout: float = chz.field(default=0.0, doc="dropout of embeddings and of each residual branch")
    attention_dropout: float = chz.field(default=0.0, doc="dropout of attention probabilities")
    epsilon: float = chz.field(default=1e-5, doc="of the RMS norms")
    tied: bool = chz.field(default=False, doc="logits from the embedding table, or from a table of the head's own")

    @chz.validate
    def _positions(self):
        if not self.theta > 0:
            raise ValueError(f"theta={self.theta} must be above 0")
        if self.window is not None and self.window < 1:
            raise ValueError(f"window={self.window} must be at least 1: a token sees itself")

    @classmethod
    def preset(cls, size: str, **overrides) -> "Llama":
        """llama2-7B, llama3.2-1B, qwen3-0.6B, ... as published; tiny, mini and small for a laptop."""
        return presets(cls, SIZES, size, overrides)

    @property
    def mixes(self) -> bool:
        return True

    def build(self, vocab_size: int) -> nn.Module:
        return Body(self, vocab_size)

    def check_heads(self) -> None:
        if self.head_dim is None:
            super().check_heads()
        size = self.cached[1]
        if size < 2 or size % 2:
            raise ValueError(f"heads of size {size} cannot turn: head_dim (or width / heads) must be even")
        if self.cached[0] < 1 or self.heads % self.cached[0]:
            raise ValueError(f"heads={self.heads} cannot share kv_heads={self.kv_heads}: it must divide them")

    def check_length(self, length: int) -> None:
        """Any will do: no parameter belongs to a position."""

    @property
    def cached(self) -> tuple[int, int]:
        kv_heads = self.heads if self.kv_heads is None else self.kv_heads
        return kv_heads, self.width // self.heads if self.head_dim is None else self.head_dim

    def resized(self, *, layers: int, width: int, heads: int, hidden: int) -> "Llama":
        """As many queries share a key as before, where that number divides them."""
        kv_heads, shared = self.kv_heads, self.heads // self.cached[0]
        if kv_heads is not None:
            kv_heads = heads // shared if heads % shared == 0 else math.gcd(heads, kv_heads)
        return chz.replace(self, layers=layers, width=width, heads=heads, hidden=hidden, kv_heads=kv_heads)

    def for_rows(self, length: int) -> "Llama":
        return self if self.window is None else chz.replace(self, window=min(self.window, max(1, length // 4)))

    def flops_per_token(self, length: int) -> float:
        """By the same convention, with what is shared or wider counted as it is; behind a window, which is taken to be
        causal, no key is seen."""
        kv_heads, size = self.cached
        kernels = 2 * self.width * size * (self.heads + kv_heads) + self.feed_forward_weights(3)
        seen = length if self.window is None else min(length, self.window)
        return self.layers * (2.0 * kernels + 4.0 * seen * self.heads * size)

    def frequencies(self) -> Array:
        """f32[K / 2], radians a position."""
        frequencies_F = frequencies_of(self.cached[1], self.theta)
        return frequencies_F if self.scaling is None else self.scaling.scaled(frequencies_F)


@struct.dataclass
class Shared:
    """What all layers read. positions: i32[B, L], by which a window counts in a scattered row, or None."""

    mask: Mask
    rotation: Rotation
    positions: Array | None


class Block(nn.Module):
    config: Llama

    def setup(self):
        c, dtype = self.config, self.config.compute_dtype()
        # Kernels that write to the residual stream start smaller by the number of such writes.
        out_std = c.std * (2 * c.layers) ** -0.5
        self.attention_norm = RMSNorm(c.epsilon, dtype)
        self.attention = Attention(
            c.width,
            c.heads,
            c.attention_dropout,
            c.std,
            out_std,
            dtype,
            kv_heads=c.kv_heads,
            head_dim=c.head_dim,
            use_bias=c.qkv_bias,
            out_bias=False,
            qk_epsilon=c.epsilon if c.qk_norm else None,
            window=c.window,
        )
        self.mlp_norm = RMSNorm(c.epsilon, dtype)
        self.mlp = feed_forward(c, jax.nn.silu, c.std, out_std, gated=True, use_bias=False)
        self.drop = Dropout(c.dropout)

    def __call__(self, x_BLD: Array, shared: Shared, cache: PyTree, train: bool) -> tuple[Array, PyTree]:
        drop = lambda y: self.drop(y, deterministic=not train)
        y_BLD = self.attention_norm(x_BLD)
        y_BLD, cache = self.attention(y_BLD, shared.mask, cache, shared.rotation, shared.positions, train=train)
        x_BLD = x_BLD + drop(y_BLD)
        x_BLD = x_BLD + drop(self.mlp(self.mlp_norm(x_BLD), shared.mask.valid, train=train))
        return constrain(x_BLD, "batch", "length", "embed_activation"), cache


class Body(nn.Module):
    config: Llama
    vocab_size: int

    def setup(self):
        c, dtype = self.config, self.config.compute_dtype()
        self.embed = TextEmbed(self.vocab_size, c.width, 0, 0, c.std, 0.0, dtype)
        self.drop = Dropout(c.dropout)
        self.layers = Stack(Block(c, parent=None), c.layers, c.unrolled(), c.remat)
        self.norm = RMSNorm(c.epsilon, dtype)

    def __call__(
        self, inputs: TextInput, state: PyTree = None, *, train: bool, embedded: Array | None = None
    ) -> Hidden:
        x_BLD = self.drop(self.embed(inputs) if embedded is None else embedded, deterministic=not train)
        x_BLD = constrain(x_BLD, "batch", "length", "embed_activation")
        turns = rotation(inputs.positions, self.config.frequencies())
        shared = Shared(inputs.mask, turns, inputs.positions if inputs.scattered else None)
        x_BLD, state = self.layers(x_BLD, shared, state, train)
        return Hidden(self.norm(x_BLD), state)

    def embedding(self, inputs: TextInput) -> Array:
        return self.embed(inputs)

    def table(self) -> Array:
        return self.embed.table()
