"""Masked language models that also answer a question about a pair of sentences: the nets of BERT and ALBERT."""

import jax.numpy as jnp
from flax import linen as nn

from ptjax.models.base import TextModelConfig
from ptjax.models.heads import LanguageHead, LanguageModel
from ptjax.nn.linear import Linear
from ptjax.types import Array, TextInput


class Pooler(nn.Module):
    """A row as one vector: tanh of a dense layer on its first position, the [CLS] (Devlin et al., 2019)."""

    config: TextModelConfig

    def setup(self):
        c = self.config
        self.dense = Linear((c.width, c.width), ("embed", "embed_out"), c.std, dtype=c.compute_dtype())

    def __call__(self, h_BLD: Array) -> Array:
        """[B, L, D] -> [B, D]."""
        return jnp.tanh(self.dense(h_BLD[:, 0]))


class SentencePairModel(LanguageModel):
    """A language model with a pooler; a subclass names the head that asks the question."""

    pooler: Pooler

    def __call__(self, inputs: TextInput) -> Array:
        h_BLD = self.hidden(inputs).last
        if self.is_initializing():  # every head has parameters
            self.answer(h_BLD)
        return self.logits(h_BLD)

    def answer(self, h_BLD: Array) -> Array:
        """f32[B, 2]: logits of the answers 0 and 1."""
        return self.question()(self.pooler(h_BLD)).astype(jnp.float32)

    def question(self) -> Linear:
        raise NotImplementedError


class NextSentenceModel(SentencePairModel):
    next_sentence: Linear

    def question(self) -> Linear:
        return self.next_sentence


class SentenceOrderModel(SentencePairModel):
    sentence_order: Linear

    def question(self) -> Linear:
        return self.sentence_order


def sentence_pair_model(kind: type[SentencePairModel], config: TextModelConfig, vocab_size: int) -> SentencePairModel:
    """vocab_size: the tokenizer's; the net's tables have `config.padded_vocab` rows."""
    padded = config.padded_vocab(vocab_size)
    head = LanguageHead(config, padded, transform=True, bias=True)
    question = Linear((config.width, 2), ("embed", "answer"), config.std, dtype=config.compute_dtype())
    return kind(config.build(padded), head, Pooler(config), question)
