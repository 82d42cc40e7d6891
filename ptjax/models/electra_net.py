"""ELECTRA's net (Clark et al., 2020): a body that detects replacements, and a small generator that makes them."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from ptjax.config import UserError
from ptjax.models.base import TextModelConfig, gelu
from ptjax.models.heads import LanguageHead, project
from ptjax.nn.linear import Linear
from ptjax.types import Array, Hidden, PyTree, TextInput


class DetectionHead(nn.Module):
    """A dense layer, GELU, and one logit a position: whether its token was replaced."""

    config: TextModelConfig

    def setup(self):
        c, dtype = self.config, self.config.compute_dtype()
        self.dense = Linear((c.width, c.width), ("embed", "embed_out"), c.std, dtype=dtype)
        self.logit = Linear((c.width, 1), ("embed", "logit"), c.std, dtype=dtype)

    def __call__(self, h_BLD: Array) -> Array:
        """[..., D] -> f32[...], the logit of "replaced"."""
        return self.logit(gelu(self.dense(h_BLD)))[..., 0].astype(jnp.float32)


class ElectraNet(nn.Module):
    """The discriminator, which is `body` and what is kept, with the generator that asks its questions.

    The generator has no embedding of its own: it reads the body's, through a projection where it is narrower
    (None where it is not), and its head leads back to the width of the body's table.
    """

    body: nn.Module
    generator: nn.Module
    generator_projection: Linear | None
    generator_head: LanguageHead
    discriminator_head: DetectionHead

    def __call__(self, inputs: TextInput) -> tuple[Array, Array]:
        return self.generator_scores(self.generated(inputs))[0], self.detect(inputs)

    def hidden(self, inputs: TextInput, state: PyTree = None, *, train: bool = False) -> Hidden:
        return self.body(inputs, state, train=train)

    def generated(self, inputs: TextInput, *, train: bool = False) -> Array:
        """The generator's last hidden states, [B, L, G]."""
        embedded = self.body.embedding(inputs)
        if self.generator_projection is not None:
            embedded = self.generator_projection(embedded)
        return self.generator(inputs, train=train, embedded=embedded).last

    def generator_scores(self, h_NG: Array) -> tuple[Array, Array, Array | None]:
        """(features [N, D], table [V, D], bias [V]) of the generator's distribution over the vocabulary."""
        return self.generator_head(h_NG, self.body.table())

    def detect(self, inputs: TextInput, *, train: bool = False) -> Array:
        """f32[B, L]: the discriminator's logit of "replaced" at each position."""
        return self.discriminator_head(self.hidden(inputs, train=train).last)


def generator_config(body: TextModelConfig, share: float, depth: float = 1.0) -> TextModelConfig:
    """The body's config with `share` of its width, heads and hidden units, and `depth` of its layers.

    Raises UserError where no body has such sizes: where the heads do not divide the width, for one.
    """
    width, hidden = (max(1, round(share * size)) for size in (body.width, body.hidden))
    heads, layers = max(1, round(share * body.heads)), max(1, round(depth * body.layers))
    try:
        return body.resized(layers=layers, width=width, heads=heads, hidden=hidden)
    except ValueError as error:
        sizes = f"objective.generator={share:g} of model.width={body.width} and model.heads={body.heads}"
        if width % heads == 0:
            raise UserError(f"{sizes} is no generator: {error}") from error
        fits = [n for n in range(1, body.heads + 1) if (n * body.width) % body.heads == 0]
        near = min(fits, key=lambda n: abs(n / body.heads - share))
        raise UserError(
            f"{sizes} is {width} units for {heads} heads, which do not divide them: {near}/{body.heads} = "
            f"{near / body.heads:.6g} would fit"
        ) from error


def electra_net(body: TextModelConfig, vocab_size: int, *, generator: float, depth: float) -> ElectraNet:
    """vocab_size: the tokenizer's. generator, depth: shares of the body's sizes. Raises as `generator_config`."""
    small, padded = generator_config(body, generator, depth), body.padded_vocab(vocab_size)
    projection = None
    if small.table_width != body.table_width:
        shape, dtype = (body.table_width, small.table_width), body.compute_dtype()
        projection = Linear(shape, ("embed", "embed_out"), body.std, dtype=dtype)
    head = LanguageHead(small, padded, transform=True, bias=True, table_width=body.table_width)
    return ElectraNet(body.build(padded), small.build(padded), projection, head, DetectionHead(body))


def sample(key_data_BK: Array, features_BPD: Array, table_VD: Array, bias_V: Array | None, allowed_V: Array) -> Array:
    """i32[B, P]: one draw a position from softmax(features . table + bias) over the allowed pieces, at temperature 1.

    key_data: u32[B, K], a row's own random key, so that a row draws the same wherever it is computed. No gradient.
    """
    logits_BPV = project(features_BPD, table_VD, bias_V)
    logits_BPV = jax.lax.stop_gradient(jnp.where(allowed_V, logits_BPV, -1e30))
    # Gumbel noise and argmax, as published.
    return jax.vmap(jax.random.categorical)(jax.random.wrap_key_data(key_data_BK), logits_BPV)
