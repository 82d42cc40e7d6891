"""Heads, and the nets that join a body to them. Outside nn/ and models/ a net is `init` and `apply`."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from ptjax.config import UserError
from ptjax.models.base import TextModelConfig
from ptjax.nn.attention import Cache
from ptjax.nn.linear import Linear
from ptjax.nn.norm import LayerNorm
from ptjax.types import Array, Hidden, Mask, Memory, PyTree, TextInput


class LanguageHead(nn.Module):
    """From hidden states to what multiplies a table of the vocabulary: the token embedding, or one of its own.

    transform: a dense layer, an activation and a layer norm before the table, as in BERT (Devlin et al., 2019); without
    it a body whose embedding is narrower than itself is led back to that width by a dense layer alone. bias: BERT's
    output bias. table_width: of the embedding table that is given; None for the body's own.
    """

    config: TextModelConfig
    vocab_size: int
    transform: bool
    bias: bool
    table_width: int | None = None

    def setup(self):
        c, dtype = self.config, self.config.compute_dtype()
        width = self.table_width or c.table_width
        if self.transform or width != c.width:
            self.dense = Linear((c.width, width), ("embed", "embed_out"), c.std, use_bias=c.head_bias, dtype=dtype)
        if self.transform:
            self.norm = LayerNorm(c.epsilon, dtype, use_bias=c.head_bias)
        if not c.tied:
            init = nn.with_logical_partitioning(nn.initializers.normal(c.std), ("vocab", "table"))
            self.own = self.param("table", init, (self.vocab_size, width), jnp.float32)
        if self.bias:
            zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("vocab",))
            self.output_bias = self.param("bias", zeros, (self.vocab_size,), jnp.float32)

    def __call__(self, h_D: Array, embedding_VD: Array) -> tuple[Array, Array, Array | None]:
        """[..., D] and the embedding table -> (features [..., E], table [V, E], bias [V] or None), of logits features .
        table + bias."""
        if self.transform:
            h_D = self.norm(self.config.head_activation(self.dense(h_D)))
        elif hasattr(self, "dense"):
            h_D = self.dense(h_D)
        return h_D, embedding_VD if self.config.tied else self.own, self.output_bias if self.bias else None


def project(features_D: Array, table_VD: Array, bias_V: Array | None) -> Array:
    """[..., D] -> f32[..., V]: the logits features . table + bias; V is the padded vocabulary."""
    table_VD = table_VD.astype(features_D.dtype)
    logits = jnp.einsum("...d,vd->...v", features_D, table_VD, preferred_element_type=jnp.float32)
    return logits if bias_V is None else logits + bias_V


class VocabularyNet(nn.Module):
    """A body under a head that scores the vocabulary, which a subclass names: heads of one name are one head."""

    body: nn.Module

    def __call__(self, inputs: TextInput) -> Array:
        return self.logits(self.hidden(inputs).last)

    def hidden(self, inputs: TextInput, state: PyTree = None, *, train: bool = False) -> Hidden:
        return self.body(inputs, state, train=train)

    def scores(self, h_ND: Array) -> tuple[Array, Array, Array | None]:
        """(features [N, D], table [V, D], bias [V] or None), for a loss with its own way to the logits."""
        raise NotImplementedError

    def logits(self, h_D: Array) -> Array:
        """[..., D] -> f32[..., V]; V is the padded vocabulary."""
        return project(*self.scores(h_D))


class LanguageModel(VocabularyNet):
    """A text body under a vocabulary head."""

    head: LanguageHead

    def scores(self, h_ND: Array) -> tuple[Array, Array, Array | None]:
        return self.head(h_ND, self.body.table())


def language_model(config: TextModelConfig, vocab_size: int, *, transform: bool, bias: bool) -> LanguageModel:
    """vocab_size: the tokenizer's; the net's tables have `config.padded_vocab` rows."""
    padded = config.padded_vocab(vocab_size)
    return LanguageModel(config.build(padded), LanguageHead(config, padded, transform, bias))


def init(net: nn.Module, key: Array, length: int) -> PyTree:
    """Fresh params, a plain nested dict. Pure: runs under jit and `jax.eval_shape`."""
    tokens = jnp.zeros((1, length), jnp.int32)
    return nn.meta.unbox(net.init(key, TextInput(tokens, tokens, Mask()))["params"])


def shapes(net: nn.Module, length: int) -> tuple[PyTree, PyTree]:
    """The tree of params with a ShapeDtypeStruct at each leaf, and with a tuple of logical axis names (or None).
    Allocates nothing."""
    tokens = jnp.zeros((1, length), jnp.int32)
    boxed = jax.eval_shape(lambda: net.init(jax.random.key(0), TextInput(tokens, tokens, Mask())))["params"]
    is_box = lambda x: isinstance(x, nn.meta.AxisMetadata)
    return nn.meta.unbox(boxed), jax.tree.map(lambda x: tuple(x.names), boxed, is_leaf=is_box)


def new_memory(config: TextModelConfig, rows: int) -> Memory | None:
    """An empty memory for `rows` rows; None for a body that keeps none."""
    if not config.memory_length:
        return None
    hidden = jnp.zeros((rows, config.layers, config.memory_length, config.width), config.compute_dtype())
    return Memory(hidden, jnp.zeros(hidden.shape[:1] + hidden.shape[2:3], bool), jnp.full((rows,), -1, jnp.int32))


def new_cache(config: TextModelConfig, rows: int, slots: int) -> Cache:
    """An empty key-value cache for `rows` sequences of up to `slots` tokens."""
    shape = (config.layers, rows, slots, *config.cached)
    zeros = jnp.zeros(shape, config.compute_dtype())
    return Cache(zeros, zeros, jnp.zeros((config.layers,), jnp.int32))


@dataclasses.dataclass(frozen=True)
class JoinedNets:
    """Nets over one tree of parameters: the body and heads of the same name are shared."""

    nets: tuple[nn.Module, ...]

    def init(self, key: Array, inputs: TextInput) -> PyTree:
        params = {}
        for net in self.nets:
            params = _merged(params, net.init(key, inputs)["params"], "")
        return {"params": params}


def _merged(a: PyTree, b: PyTree, path: str) -> PyTree:
    if not isinstance(a, dict) or not isinstance(b, dict):
        shapes = [jax.tree.map(jnp.shape, nn.meta.unbox(x)) for x in (a, b)]
        if shapes[0] != shapes[1]:
            raise UserError(f"{path} has shape {shapes[0]} in one objective's net and {shapes[1]} in another's")
        return a
    both = {name: _merged(a[name], b[name], f"{path}.{name}".strip(".")) for name in a.keys() & b.keys()}
    return {**a, **b, **both}
