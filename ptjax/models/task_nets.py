"""Nets that fine-tuning trains: a body under a small head that answers about a text, or about each of its tokens."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from ptjax.models.base import TextModelConfig
from ptjax.models.sentence_net import Pooler
from ptjax.nn.dropout import Dropout
from ptjax.nn.linear import Linear
from ptjax.types import Array, PairInput, TextInput

Pool = Literal["cls", "mean", "last", "attention"]


class TaskNet(nn.Module):
    """A body whose last states are read; of an encoder-decoder, the encoder's (Ni et al., 2022, "Sentence-T5").

    pairs: whether the body is an encoder-decoder.
    """

    body: nn.Module
    pairs: bool
    rate: float  # of dropout before the head

    def setup(self):
        self.dropout = Dropout(self.rate)

    def __call__(self, inputs: TextInput) -> Array:
        if self.is_initializing() and self.pairs:  # the decoder has parameters, too
            self.body(PairInput(inputs, inputs), train=False)
        return self.answer(inputs)

    def states(self, inputs: TextInput, train: bool) -> Array:
        """[B, L, D]"""
        return self.body.encode(inputs, train=train) if self.pairs else self.body(inputs, None, train=train).last

    def answer(self, inputs: TextInput, *, train: bool = False) -> Array:
        """f32 logits."""
        raise NotImplementedError

    def dropped(self, x: Array, train: bool) -> Array:
        return self.dropout(x, deterministic=not train)


class SequenceNet(TaskNet):
    """A text as one vector: of its first token, the mean or the last of them, or an average by learned attention (Lin
    et al., 2017, with one hop and no hidden layer); through BERT's pooler where there is one; then a linear layer."""

    classifier: Linear
    pool: Pool = "cls"
    pooler: Pooler | None = None
    query: Linear | None = None

    def answer(self, inputs: TextInput, *, train: bool = False) -> Array:
        """f32[B, C]"""
        valid_BL = jnp.ones(inputs.tokens.shape, bool) if inputs.mask.valid is None else inputs.mask.valid
        h_BD = self.pooled(self.states(inputs, train), valid_BL)
        if self.pooler is not None:
            h_BD = self.pooler(h_BD[:, None])
        return self.classifier(self.dropped(h_BD, train)).astype(jnp.float32)

    def pooled(self, h_BLD: Array, valid_BL: Array) -> Array:
        """[B, D]"""
        if self.pool == "cls":
            return h_BLD[:, 0]
        if self.pool == "last":
            last_B = jnp.maximum(valid_BL.sum(axis=1) - 1, 0)
            return jnp.take_along_axis(h_BLD, last_B[:, None, None], axis=1)[:, 0]
        if self.pool == "mean":
            weight_BL = valid_BL / jnp.maximum(valid_BL.sum(axis=1, keepdims=True), 1)
        else:
            score_BL = self.query(h_BLD)[..., 0].astype(jnp.float32)
            weight_BL = jax.nn.softmax(jnp.where(valid_BL, score_BL, -1e30), axis=1)
        return jnp.einsum("bl,bld->bd", weight_BL.astype(h_BLD.dtype), h_BLD)


class TokenNet(TaskNet):
    """A linear layer on the state of each token."""

    tagger: Linear

    def answer(self, inputs: TextInput, *, train: bool = False) -> Array:
        """f32[B, L, C]"""
        return self.tagger(self.dropped(self.states(inputs, train), train)).astype(jnp.float32)


def sequence_net(
    body: TextModelConfig, vocab_size: int, classes: int, *, pool: Pool, pooler: bool, dropout: float
) -> SequenceNet:
    """vocab_size: the tokenizer's. classes: outputs."""
    query = _linear(body, 1) if pool == "attention" else None
    head = _linear(body, classes)
    return SequenceNet(**_common(body, vocab_size, dropout), classifier=head, pool=pool, query=query,
                       pooler=Pooler(body) if pooler else None)  # fmt: skip


def token_net(body: TextModelConfig, vocab_size: int, classes: int, *, dropout: float) -> TokenNet:
    return TokenNet(**_common(body, vocab_size, dropout), tagger=_linear(body, classes))


def _common(body: TextModelConfig, vocab_size: int, dropout: float) -> dict:
    module = body.build(body.padded_vocab(vocab_size))
    return dict(body=module, pairs="pairs" in body.offers, rate=dropout)


def _linear(body: TextModelConfig, classes: int) -> Linear:
    # T5's `std` is a factor, not a deviation: heads begin as BERT's do.
    std = 0.02 if "pairs" in body.offers else body.std
    return Linear((body.width, classes), ("embed", "answer"), std, dtype=body.compute_dtype())
