"""Prefix language modelling: the end of a text from its beginning, which is read in both directions."""

import chz
import jax
import jax.numpy as jnp

from ptjax.data.tokenizers import VocabSpec
from ptjax.models.heads import language_model
from ptjax.objectives.base import Objective, StepContext, packed_input, positions_of, segments_of, token_metrics
from ptjax.objectives.causal import following, next_token_scores
from ptjax.partition import per_row
from ptjax.types import Array, Batch, Losses


@chz.chz
class PrefixLM(Objective):
    """The prefix language model of T5 (Raffel et al., 2020, section 3.2) and UniLM (Dong et al., 2019), on one stack.

    A document of n tokens in a packed row has a prefix of 1 to n - 1 tokens, each as likely. All of the document sees
    the prefix, the prefix sees itself alone, and each of the other tokens is predicted from what stands before it.
    """

    def corrupt(self, batch, context):
        """Adds prefix: bool[B, L]."""
        draw = lambda tokens, keys: _prefixes(tokens, keys, context.vocab)
        return batch | {"prefix": per_row(draw, batch["tokens"], context.keys)}

    def inputs(self, batch, vocab):
        segments_BL = segments_of(batch["tokens"], vocab)
        return packed_input(batch["tokens"], segments_BL, vocab, causal=True, prefix=batch["prefix"])

    def _asked(self, batch: Batch, vocab: VocabSpec) -> Array:
        return following(batch["tokens"], vocab) * ~batch["prefix"][:, 1:]

    def weights(self, batch, vocab):
        return {"prefix": self._asked(batch, vocab).sum()}

    def net(self, body, vocab):
        return language_model(body, vocab.size, transform=False, bias=False)

    def losses(self, net, variables, batch: Batch, context: StepContext) -> Losses:
        tokens_BL, vocab = batch["tokens"], context.vocab
        scores, _ = next_token_scores(net, variables, self.inputs(batch, vocab), tokens_BL, context)
        weights_N = self._asked(batch, vocab).reshape(-1)
        totals = {"prefix": jnp.sum(scores.loss * weights_N)}
        return Losses(totals, token_metrics(scores, tokens_BL[:, 1:].reshape(-1), weights_N, vocab))

    def abilities(self):
        return ("sample",)

    @property
    def decoding(self):
        return "prefix"

    def predicted(self, length):
        return {"prefix": length / 2 if length > 1 else 0}

    def projected(self, length):
        return length - 1


def _prefixes(tokens_BL: Array, keys_B: Array, vocab: VocabSpec) -> Array:
    """bool[B, L]: the first tokens of each document, at least one and not all of two or more."""
    length = tokens_BL.shape[1]
    segments_BL, real_BL = segments_of(tokens_BL, vocab), tokens_BL != vocab.pad_id
    place_BL = positions_of(segments_BL)
    begin_BL = jnp.arange(length) - place_BL
    goes_on_BL = jnp.pad(following(tokens_BL, vocab) > 0, ((0, 0), (0, 1)))
    last_BL = jax.lax.cummin(jnp.where(goes_on_BL, length, jnp.arange(length)), axis=1, reverse=True)
    size_BL = last_BL + 1 - begin_BL
    draw_BL = jax.vmap(lambda key: jax.random.uniform(key, (length,)))(keys_B)
    draw_BL = jnp.take_along_axis(draw_BL, begin_BL, axis=1)
    prefix_BL = 1 + jnp.floor(draw_BL * (size_BL - 1)).astype(jnp.int32)
    return (place_BL < prefix_BL) & real_BL
