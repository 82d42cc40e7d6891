"""What every text body's config shares."""

import functools

import chz
import jax
import jax.numpy as jnp
from flax import linen as nn
from typing import Literal

from ptjax import platforms
from ptjax.config import Config, UserError
from ptjax.models.feed_forward import Experts
from ptjax.types import Array


@chz.chz
class ModelConfig(Config):
    """A body: an encoder or decoder that knows no objective. `build` gives its Linen module."""

    @property
    def offers(self) -> frozenset[str]:
        """What an objective may ask of it: 'text', one stack that reads a `TextInput`; 'two streams' besides; or
        'pairs', an encoder and a decoder that read a `PairInput`."""
        return frozenset({"text"})

    def build(self, vocab_size: int) -> nn.Module:
        """vocab_size: rows of the embedding table, padding included (`padded_vocab`)."""
        raise NotImplementedError


@chz.chz
class TextModelConfig(ModelConfig):
    """A transformer over tokens. Sizes are those of the papers; `preset` of a family gives the published ones."""

    layers: int = chz.field(default=12, doc="transformer layers")
    width: int = chz.field(default=768, doc="model width D")
    heads: int = chz.field(default=12, doc="attention heads; width / heads is the size of one")
    hidden: int = chz.field(default=3072, doc="units of the feed-forward part")
    max_length: int = chz.field(default=512, doc="rows of the position table: the longest sequence")
    dropout: float = chz.field(default=0.1, doc="dropout of embeddings and of each residual branch")
    attention_dropout: float = chz.field(default=0.1, doc="dropout of attention probabilities")
    epsilon: float = chz.field(default=1e-12, doc="of the layer norms")
    tied: bool = chz.field(default=True, doc="logits from the embedding table, or from a table of the head's own")
    std: float = chz.field(default=0.02, doc="standard deviation of initial kernels and embeddings")
    dtype: Literal["float32", "bfloat16"] = chz.field(default="float32", doc="compute type; parameters are float32")
    remat: Literal["none", "full", "dots"] = chz.field(
        default="none", doc="recompute in the backward pass: nothing, all, or all but matrix products"
    )
    unroll: bool | None = chz.field(default=None, doc="write the layers out; None: on CPUs, where it is 1.3x faster")
    vocab_multiple: int = chz.field(default=128, doc="the vocabulary is padded to a multiple, whatever the mesh")
    experts: Experts | None = chz.field(
        default=None,
        meta_factory=chz.factories.subclass(Experts),
        doc="Experts: many feed-forward parts, of which a token goes through a few; None: one",
    )

    @chz.validate
    def _sizes(self):
        for name in ("layers", "width", "heads", "hidden", "max_length", "vocab_multiple"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        self.check_heads()
        if self.experts is not None and not self.mixes:
            raise ValueError(f"{type(self).__name__} has no experts: leave model.experts=None")
        for name in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), not {getattr(self, name)}")

    def check_heads(self) -> None:
        """Raises ValueError where the heads do not fit the width."""
        if self.width % self.heads:
            raise ValueError(f"width={self.width} is not divisible by heads={self.heads}")

    @property
    def auxiliary(self) -> dict[str, float]:
        """Coefficients, in what is minimised, of what its layers sow in the collection 'auxiliary' (`nn.Module.sow`).
        What is sown under other names is shown and no more."""
        return {} if self.experts is None else self.experts.coefficients()

    @property
    def mixes(self) -> bool:
        """Whether its feed-forward parts are those of `feed_forward`, and can be experts."""
        return False

    @property
    def memory_length(self) -> int:
        """Positions of earlier rows that each layer keeps; 0 for a body without segment recurrence."""
        return 0

    @property
    def first_position(self) -> int:
        """Row of the position table for a document's first token; those in front are never read."""
        return 0

    @property
    def table_width(self) -> int:
        """Width of the embedding table, to which vocabulary heads lead back."""
        return self.width

    @property
    def head_bias(self) -> bool:
        """Whether the transform of a masked language model's head has biases."""
        return True

    def head_activation(self, x: Array) -> Array:
        """Of that transform."""
        return gelu(x)

    @property
    def cached(self) -> tuple[int, int]:
        """(heads, size of one) of the keys, and of the values, that a layer keeps of a token when it decodes."""
        return self.heads, self.width // self.heads

    def resized(self, *, layers: int, width: int, heads: int, hidden: int) -> "TextModelConfig":
        """A body of the same kind and these sizes; a subclass fits its other sizes to them. Raises ValueError."""
        return chz.replace(self, layers=layers, width=width, heads=heads, hidden=hidden)

    def for_rows(self, length: int) -> "TextModelConfig":
        """The same with distances of its own, such as windows, that make a difference in rows of `length`: what the
        laws look at."""
        return self

    def padded_vocab(self, size: int) -> int:
        return -(-size // self.vocab_multiple) * self.vocab_multiple

    def unrolled(self) -> bool:
        return platforms.here().unrolled if self.unroll is None else self.unroll

    def compute_dtype(self) -> jnp.dtype:
        return jnp.dtype(self.dtype)

    def check_length(self, length: int) -> None:
        """Raises UserError where a row of `length` tokens has no position embedding for its end."""
        if length > self.max_length:
            raise UserError(
                f"data.length={length} is longer than the position table: set model.max_length={length} or more, "
                f"or data.length={self.max_length} or less"
            )

    def flops_per_token(self, length: int) -> float:
        """Matrix-product FLOPs of one forward pass of the body, a token, in rows of `length`.

        2 N + 4 layers length width, N = layers (4 width^2 + 2 width hidden); attention is not halved where it is
        causal (the convention of PaLM, Chowdhery et al., 2022, appendix B). Of experts, those chosen count. A train
        step costs three times this.
        """
        kernels = self.layers * (4 * self.width**2 + self.feed_forward_weights(2))
        return 2.0 * kernels + 4.0 * self.layers * length * self.width

    def feed_forward_weights(self, kernels: int) -> int:
        """Those by which a token is multiplied in the feed-forward part of a layer: of so many kernels, and of the
        router where there is one."""
        size = kernels * self.width * self.hidden
        return size if self.experts is None else self.experts.chosen * size + self.width * self.experts.count


def presets(cls, table: dict[str, dict], name: str, overrides: dict):
    """The config of a published size; raises UserError with the names that exist."""
    if name not in table:
        raise UserError(f"{cls.__name__} has no preset {name!r}: choose one of {', '.join(table)}")
    return cls(**{**table[name], **overrides})


gelu = functools.partial(jax.nn.gelu, approximate=False)
gelu_tanh = functools.partial(jax.nn.gelu, approximate=True)
