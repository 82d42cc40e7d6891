"""T5 (Raffel et al., 2020): an encoder and a decoder with relative position biases, versions 1.0 and 1.1."""

from typing import Literal

import chz
import jax
from flax import linen as nn
from flax import struct

from ptjax.models.base import TextModelConfig, gelu_tanh, presets
from ptjax.nn.attention import allowed
from ptjax.nn.dropout import Dropout
from ptjax.nn.embed import TextEmbed
from ptjax.nn.mlp import Mlp
from ptjax.nn.norm import RMSNorm
from ptjax.nn.relative_bias import BiasedAttention, RelativeBias
from ptjax.nn.stack import Stack
from ptjax.partition import constrain
from ptjax.types import Array, Hidden, PairInput, PyTree, TextInput

# The released checkpoints; the smaller ones have BERT's small shapes.
SIZES = {
    "tiny": dict(layers=2, width=128, heads=2, hidden=512),
    "mini": dict(layers=4, width=256, heads=4, hidden=1024),
    "small": dict(layers=6, width=512, heads=8, hidden=2048),
    "base": dict(layers=12, width=768, heads=12, hidden=3072),
    "large": dict(layers=24, width=1024, heads=16, hidden=4096),
    "3B": dict(layers=24, width=1024, heads=32, head_dim=128, hidden=16384),
    "11B": dict(layers=24, width=1024, heads=128, head_dim=128, hidden=65536),
}
SIZES_1_1 = {
    "tiny": dict(layers=2, width=128, heads=2, hidden=344),
    "mini": dict(layers=4, width=256, heads=4, hidden=688),
    "small": dict(layers=8, width=512, heads=6, hidden=1024),
    "base": dict(layers=12, width=768, heads=12, hidden=2048),
    "large": dict(layers=24, width=1024, heads=16, hidden=2816),
    "xl": dict(layers=24, width=2048, heads=32, hidden=5120),
    "xxl": dict(layers=24, width=4096, heads=64, hidden=10240),
}
VERSION_1_1 = dict(gated=True, tied=False, dropout=0.0, attention_dropout=0.0)  # pre-trained without dropout


@chz.chz
class T5(TextModelConfig):
    """T5's body: `layers` in the encoder and as many in the decoder, RMSNorm before each part, no biases."""

    head_dim: int = chz.field(default=64, doc="size of an attention head; heads * head_dim need not be the width")
    gated: bool = chz.field(default=False, doc="feed-forward part: gated GELU (version 1.1), or ReLU (1.0)")
    tied: bool = chz.field(default=True, doc="logits from the embedding table, scaled (1.0), or from one of their own")
    buckets: int = chz.field(default=32, doc="relative position biases a head")
    furthest: int = chz.field(default=128, doc="distance from which on the bias is the same")
    dropout: float = chz.field(default=0.1, doc="dropout of embeddings, residual branches, hidden units and outputs")
    epsilon: float = chz.field(default=1e-6, doc="of the RMS norms")
    std: float = chz.field(default=1.0, doc="factor of the published initial deviations, which differ by kernel")
    max_length: int = chz.field(default=512, doc="not used: relative positions have no end")

    @chz.validate
    def _positions(self):
        if self.head_dim < 1:
            raise ValueError(f"head_dim must be at least 1, not {self.head_dim}")
        if self.buckets < 4 or self.buckets % 4:
            raise ValueError(f"buckets must be a multiple of 4, not {self.buckets}: near and far, before and after")
        if self.furthest <= self.buckets // 2:
            raise ValueError(f"furthest={self.furthest} must be above buckets / 2 = {self.buckets // 2}")

    @classmethod
    def preset(cls, size: str, version: Literal["1.0", "1.1"] = "1.0", **overrides) -> "T5":
        """small, base and large as published, with 3B and 11B (1.0) or xl and xxl (1.1); tiny and mini for a laptop."""
        if version == "1.1":
            return presets(cls, {name: shape | VERSION_1_1 for name, shape in SIZES_1_1.items()}, size, overrides)
        return presets(cls, SIZES, size, overrides)

    @property
    def offers(self):
        return frozenset({"pairs"})

    def build(self, vocab_size: int) -> nn.Module:
        return Body(self, vocab_size)

    def check_heads(self) -> None:
        pass

    def check_length(self, length: int) -> None:
        pass

    def flops_per_pair(self, source: int, target: int) -> float:
        """Matrix-product FLOPs of one forward pass of the body over `source` and `target` tokens, by the convention of
        `TextModelConfig.flops_per_token`. target: 0 where the encoder alone runs."""
        inner = self.heads * self.head_dim
        attention, mlp = 4 * self.width * inner, (3 if self.gated else 2) * self.width * self.hidden
        encoder = source * (attention + mlp + 2 * source * inner)
        # Queries and outputs of the attention to the encoder are made a target token, keys and values a source token.
        crossed = (target + source) * attention / 2 + 2 * target * source * inner
        decoder = target * (attention + mlp + 2 * target * inner) + crossed
        return 2.0 * self.layers * (encoder + (decoder if target else 0))

    def flops_per_token(self, length: int) -> float:
        """Of a pair of `length` tokens each, a token of the target."""
        return self.flops_per_pair(length, length) / length


@struct.dataclass
class Shared:
    """What all layers of a stack read. allowed: bool, biases: f32, each broadcastable to [B, H, L, keys]; `memory`
    [B, S, D] is the encoder's output, which only a decoder reads."""

    allowed: Array | None
    bias: Array
    memory: Array | None = None
    memory_allowed: Array | None = None


class Block(nn.Module):
    config: T5
    decoder: bool

    def setup(self):
        c, dtype = self.config, self.config.compute_dtype()
        attention = lambda: BiasedAttention(c.width, c.heads, c.head_dim, c.attention_dropout, c.std, dtype)
        self.attention_norm, self.attention = RMSNorm(c.epsilon, dtype), attention()
        if self.decoder:
            self.cross_norm, self.cross = RMSNorm(c.epsilon, dtype), attention()
        self.mlp_norm = RMSNorm(c.epsilon, dtype)
        self.mlp = Mlp(
            c.width,
            c.hidden,
            gelu_tanh if c.gated else jax.nn.relu,
            c.std * c.width**-0.5,
            c.std * c.hidden**-0.5,
            dtype,
            gated=c.gated,
            use_bias=False,
            dropout=c.dropout,
        )
        self.drop = Dropout(c.dropout)

    def __call__(self, x_BLD: Array, shared: Shared, cache: PyTree, train: bool) -> tuple[Array, PyTree]:
        drop = lambda y: self.drop(y, deterministic=not train)
        y_BLD = self.attention_norm(x_BLD)
        x_BLD = x_BLD + drop(self.attention(y_BLD, y_BLD, shared.allowed, shared.bias, train=train))
        if self.decoder:
            y_BLD = self.cross_norm(x_BLD)
            x_BLD = x_BLD + drop(self.cross(y_BLD, shared.memory, shared.memory_allowed, None, train=train))
        x_BLD = x_BLD + drop(self.mlp(self.mlp_norm(x_BLD), train=train))
        return constrain(x_BLD, "batch", "length", "embed_activation"), cache


class Half(nn.Module):
    """The encoder or the decoder: layers that share one position bias, and a norm behind them."""

    config: T5
    decoder: bool

    def setup(self):
        c = self.config
        self.bias = RelativeBias(c.heads, not self.decoder, c.buckets, c.furthest, c.std * c.width**-0.5)
        self.layers = Stack(Block(c, self.decoder, parent=None), c.layers, c.unrolled(), c.remat)
        self.norm = RMSNorm(c.epsilon, c.compute_dtype())
        self.drop = Dropout(c.dropout)

    def __call__(
        self,
        x_BLD: Array,
        allowed_BHLL: Array | None,
        memory_BSD: Array | None = None,
        memory_allowed_BHLS: Array | None = None,
        *,
        train: bool,
    ) -> Array:
        drop = lambda y: self.drop(y, deterministic=not train)
        shared = Shared(allowed_BHLL, self.bias(x_BLD.shape[1]), memory_BSD, memory_allowed_BHLS)
        x_BLD = constrain(drop(x_BLD), "batch", "length", "embed_activation")
        x_BLD, _ = self.layers(x_BLD, shared, None, train)
        return drop(self.norm(x_BLD))


class Body(nn.Module):
    config: T5
    vocab_size: int

    def setup(self):
        c = self.config
        self.embed = TextEmbed(self.vocab_size, c.width, 0, 0, c.std, 0.0, c.compute_dtype())
        self.encoder = Half(c, decoder=False)
        self.decoder = Half(c, decoder=True)

    def __call__(self, inputs: PairInput, state: PyTree = None, *, train: bool) -> Hidden:
        """Hidden states of the decoder, [B, T, D]."""
        return self.decode(inputs, self.encode(inputs.source, train=train), train=train)

    def encode(self, source: TextInput, *, train: bool) -> Array:
        """[B, S, D]"""
        length = source.tokens.shape[1]
        return self.encoder(self.embed(source), allowed(source.mask, length, length), train=train)

    def decode(self, inputs: PairInput, memory_BSD: Array, *, train: bool) -> Hidden:
        target, length = inputs.target, inputs.target.tokens.shape[1]
        y_BLD = self.decoder(
            self.embed(target),
            allowed(target.mask, length, length),
            memory_BSD,
            seen_of_source(inputs),
            train=train,
        )
        return Hidden(y_BLD)

    def table(self) -> Array:
        return self.embed.table()


def seen_of_source(inputs: PairInput) -> Array | None:
    """bool, broadcastable to [B, H, T, S]: the decoder sees what is real and of its own document; None: everything."""
    source, target = inputs.source.mask, inputs.target.mask
    parts = []
    if source.valid is not None:
        parts.append(source.valid[:, None, None, :])
    if source.segments is not None:
        parts.append((target.segments[:, :, None] == source.segments[:, None, :])[:, None])
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else parts[0] & parts[1]
