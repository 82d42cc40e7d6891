"""Masked language modelling (BERT): some tokens from all the others."""

import chz
import jax
import jax.numpy as jnp
import numpy as np

from ptjax.data.tokenizers import VocabSpec
from ptjax.models.heads import language_model
from ptjax.objectives.base import Objective, StepContext, packed_input, segments_of, token_metrics
from ptjax.objectives.cross_entropy import cross_entropy
from ptjax.partition import per_row
from ptjax.types import Array, Batch, Losses


@chz.chz
class MLM(Objective):
    """Devlin et al., 2019: chooses exactly round(rate x ordinary tokens) positions of each row, never a control piece,
    shows 80 % of them as the mask, 10 % as a random ordinary piece and 10 % as they are, and asks for the original.

    Only the chosen positions reach the vocabulary projection.
    """

    rate: float = chz.field(default=0.15, doc="share of ordinary tokens that are predicted")
    mask_share: float = chz.field(default=0.8, doc="share of the predicted that are shown as the mask")
    random_share: float = chz.field(default=0.1, doc="share of the predicted that are shown as a random piece")
    whole_words: bool = chz.field(default=False, doc="mask all pieces of a word together")

    @chz.validate
    def _shares(self):
        if not 0 < self.rate <= 1:
            raise ValueError(f"rate must be in (0, 1], not {self.rate}")
        if min(self.mask_share, self.random_share) < 0 or self.mask_share + self.random_share > 1:
            raise ValueError("mask_share and random_share are shares: at least 0, at most 1 together")

    def abilities(self):
        return ("fill",)

    def predicted(self, length):
        return {"mlm": round(self.rate * length)}

    def flops_per_row(self, body, length, vocab):
        transform = 2.0 * body.width**2
        return super().flops_per_row(body, length, vocab) + self.projected(length) * transform

    def corrupt(self, batch, context):
        """Adds original [B, L], the tokens as they were, and positions i32[B, P] with weights f32[B, P], the chosen
        positions; P is the same for every row, and weight 0 fills up rows with fewer ordinary tokens."""
        mask = lambda tokens, keys: self._mask(tokens, keys, context.vocab)
        return batch | per_row(mask, batch["tokens"], context.keys)

    def _mask(self, tokens_BL: Array, keys_B: Array, vocab: VocabSpec) -> Batch:
        length = tokens_BL.shape[1]
        ordinary_V = np.ones(vocab.size, bool)
        ordinary_V[list(vocab.special_ids)] = False
        choosable_BL = jnp.asarray(ordinary_V)[tokens_BL]
        # Rounded on the host in float64, for every number of ordinary tokens that a row can have.
        quota_B = jnp.asarray(np.round(self.rate * np.arange(length + 1)).astype(np.int32))[choosable_BL.sum(axis=1)]
        draws = jax.vmap(lambda key: jax.random.split(key, 3))(keys_B)
        score_BL = jax.vmap(lambda key: jax.random.uniform(key, (length,)))(draws[:, 0])
        if self.whole_words:
            score_BL = _score_of_word(score_BL, tokens_BL, choosable_BL, vocab)
        score_BL = jnp.where(choosable_BL, score_BL, -1.0)
        most = self.projected(length)
        # One more than the quota: it tells whether the last word of the quota goes on.
        position_BP = jax.lax.top_k(score_BL, min(most + 1, length))[1]
        chosen_BP = jnp.arange(position_BP.shape[1]) < quota_B[:, None]
        if self.whole_words:
            # Equal scores are one word, and top_k keeps its pieces together: drop the word that the quota cuts.
            picked_BP = jnp.take_along_axis(score_BL, position_BP, axis=1)
            last_B = jnp.minimum(quota_B, position_BP.shape[1] - 1)[:, None]
            beyond_B = jnp.take_along_axis(picked_BP, last_B, axis=1)
            beyond_B = jnp.where(last_B < quota_B[:, None], -2.0, beyond_B)
            chosen_BP &= (picked_BP != beyond_B) | (beyond_B < 0)
        position_BP, chosen_BP = position_BP[:, :most], chosen_BP[:, :most]

        pieces = jnp.asarray(np.flatnonzero(ordinary_V).astype(np.int32))
        shape = (most,)
        fate_BP = jax.vmap(lambda key: jax.random.uniform(key, shape))(draws[:, 1])
        random_BP = pieces[jax.vmap(lambda key: jax.random.randint(key, shape, 0, len(pieces)))(draws[:, 2])]
        original_BP = jnp.take_along_axis(tokens_BL, position_BP, axis=1)
        shown_BP = jnp.where(fate_BP < self.mask_share + self.random_share, random_BP, original_BP)
        shown_BP = jnp.where(fate_BP < self.mask_share, vocab.mask_id, shown_BP)
        shown_BP = jnp.where(chosen_BP, shown_BP, original_BP)
        rows_B1 = jnp.arange(tokens_BL.shape[0])[:, None]
        return {
            "tokens": tokens_BL.at[rows_B1, position_BP].set(shown_BP, unique_indices=True),
            "original": tokens_BL,
            "positions": position_BP,
            "weights": chosen_BP.astype(jnp.float32),
        }

    def inputs(self, batch, vocab):
        # Documents are told apart in the original, although no boundary is ever masked: one way for all objectives.
        return packed_input(batch["tokens"], segments_of(batch["original"], vocab), vocab, causal=False)

    def weights(self, batch, vocab):
        return {"mlm": batch["weights"].sum()}

    def net(self, body, vocab):
        return language_model(body, vocab.size, transform=True, bias=True)

    def losses(self, net, variables, batch: Batch, context: StepContext) -> Losses:
        inputs = self.inputs(batch, context.vocab)
        hidden = net.apply(variables, inputs, train=context.train, rngs=context.rngs, method="hidden")
        h_BPD = jnp.take_along_axis(hidden.last, batch["positions"][..., None], axis=1)
        labels_N = jnp.take_along_axis(batch["original"], batch["positions"], axis=1).reshape(-1)
        weights_N = batch["weights"].reshape(-1)
        features, table, bias = net.apply(variables, h_BPD.reshape(-1, h_BPD.shape[-1]), method="scores")
        scores = cross_entropy(features, table, bias, labels_N, size=context.vocab.size)
        totals = {"mlm": jnp.sum(scores.loss * weights_N)}
        return Losses(totals, token_metrics(scores, labels_N, weights_N, context.vocab))


def _score_of_word(score_BL: Array, tokens_BL: Array, choosable_BL: Array, vocab: VocabSpec) -> Array:
    """Gives every piece the score of its word's first piece."""
    starts_BL = jnp.asarray(vocab.starts_word)[tokens_BL] | ~choosable_BL
    after_BL = jnp.asarray(vocab.ends_word)[tokens_BL] | ~choosable_BL
    starts_BL |= jnp.concatenate([jnp.ones_like(after_BL[:, :1]), after_BL[:, :-1]], axis=1)
    first_BL = jax.lax.cummax(jnp.where(starts_BL, jnp.arange(tokens_BL.shape[1]), 0), axis=1)
    return jnp.take_along_axis(score_BL, first_BL, axis=1)
