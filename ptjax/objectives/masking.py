"""Which tokens of a row are hidden, and behind what: the question that masked language models are asked."""

import math
from typing import Literal

import chz
import jax
import jax.numpy as jnp
import numpy as np

from ptjax.data.tokenizers import VocabSpec
from ptjax.objectives.base import CorruptContext, Objective
from ptjax.partition import per_row
from ptjax.types import Array, Batch


@chz.chz
class MaskedObjective(Objective):
    """What objectives share that hide exactly round(rate x tokens that may be hidden) of each row.

    Hidden are single tokens; whole words; or spans (SpanBERT, Joshi et al., 2020), whose length in words is geometric,
    cut off at `span_max`. Never are more tokens hidden than the rate says; with words and spans fewer by less than a
    word, since the last span, and no word, is shortened to fit. Of the hidden, 80 % are shown as the mask, 10 % as a
    random ordinary piece and 10 % as they are (BERT), decided for each token, but once for all of a span.
    """

    rate: float = chz.field(default=0.15, doc="share of ordinary tokens that are predicted")
    final_rate: float | None = chz.field(
        default=None, doc="that share at the end of the run, when it is to change (Ankner et al., 2023); None: constant"
    )
    rate_schedule: Literal["linear", "cosine"] = chz.field(default="linear", doc="the way from rate to final_rate")
    mask_share: float = chz.field(default=0.8, doc="share of the predicted that are shown as the mask")
    random_share: float = chz.field(default=0.1, doc="share of the predicted that are shown as a random piece")
    unit: Literal["token", "word", "span"] = chz.field(
        default="token", doc="what is hidden together: a token, the pieces of a word, or a span of words"
    )
    span_p: float = chz.field(default=0.2, doc="unit=span: parameter of the geometric length in words")
    span_max: int = chz.field(default=10, doc="unit=span: words of the longest span")
    static_masks: int | None = chz.field(
        default=None, doc="masks that an example has for good, one of which is drawn each time (BERT: 10); None: no end"
    )

    @chz.validate
    def _masking(self):
        for name in ("rate", "final_rate"):
            rate = getattr(self, name)
            if rate is not None and not 0 < rate <= 1:
                raise ValueError(f"{name} must be in (0, 1], not {rate}")
        if min(self.mask_share, self.random_share) < 0 or self.mask_share + self.random_share > 1:
            raise ValueError("mask_share and random_share are shares: at least 0, at most 1 together")
        if not 0 < self.span_p < 1:
            raise ValueError(f"span_p must be in (0, 1), not {self.span_p}")
        for name in ("span_max", "static_masks"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")

    def rate_at(self, progress):
        """The rate after a share of the run: a float or an array, as `progress` is."""
        if self.final_rate is None:
            return self.rate + 0 * progress
        share = progress
        if self.rate_schedule == "cosine":
            share = (1 - (np if isinstance(progress, np.ndarray | float) else jnp).cos(math.pi * progress)) / 2
        return (1 - share) * self.rate + share * self.final_rate

    def most_hidden(self, length: int) -> int:
        """Tokens hidden of `length` when the rate is highest: the static size of what is predicted."""
        return round(max(self.rate, self.final_rate or 0) * length)

    def visible(self):
        return 1 - self.mask_share - self.random_share

    def mean_hidden(self, length: int) -> float:
        """Tokens hidden of `length`, on average over a run."""
        if self.final_rate is None:
            return round(self.rate * length)
        progress = (np.arange(10_000) + 0.5) / 10_000
        return float(np.round(self.rate_at(progress) * length).mean())

    def masked(self, tokens_BL: Array, hideable_BL: Array, context: CorruptContext) -> Batch:
        """Hides some of the tokens where `hideable_BL`, which no special token is.

        Returns tokens [B, L] as the model is to see them; original [B, L]; and positions i32[B, P] with weights
        f32[B, P], what is to be predicted: P is `most_hidden(L)`, and weight 0 fills up rows with fewer.
        Draws from fold_in(key, 0) of each row's key: who needs more numbers takes 1 and up.
        """
        keys_B = jax.vmap(lambda key: jax.random.fold_in(key, 0))(context.keys)
        if self.static_masks is not None:
            which_B = jax.vmap(lambda key: jax.random.randint(key, (), 0, self.static_masks))(keys_B)
            keys_B = jax.vmap(jax.random.fold_in)(context.fixed_keys, which_B)
        quota_B = self._quota(hideable_BL, context.progress)
        hide = lambda *rows: self._hide(*rows, context.vocab)
        return per_row(hide, tokens_BL, hideable_BL, quota_B, keys_B)

    def _quota(self, hideable_BL: Array, progress: Array) -> Array:
        if self.final_rate is None:
            return quota(self.rate, hideable_BL)
        quota_B = jnp.round(self.rate_at(progress) * hideable_BL.sum(axis=1)).astype(jnp.int32)
        return jnp.minimum(quota_B, self.most_hidden(hideable_BL.shape[1]))

    def _hide(self, tokens_BL: Array, hideable_BL: Array, quota_B: Array, keys_B: Array, vocab: VocabSpec) -> Batch:
        length, most = tokens_BL.shape[1], self.most_hidden(tokens_BL.shape[1])
        draws = jax.vmap(lambda key: jax.random.split(key, 4))(keys_B)
        word_BL, unit_BL = self.units(tokens_BL, hideable_BL, draws[:, 3], vocab)
        score_BL = jax.vmap(lambda key: jax.random.uniform(key, (length,)))(draws[:, 0])
        score_BL = jnp.where(hideable_BL, jnp.take_along_axis(score_BL, unit_BL, axis=1), -1.0)
        # One more than the quota: it tells whether the last word of the quota goes on.
        position_BP = jax.lax.top_k(score_BL, min(most + 1, length))[1]
        hidden_BP = jnp.arange(position_BP.shape[1]) < quota_B[:, None]
        # The tokens of a unit have one score, and top_k keeps their order: drop the word that the quota cuts.
        word_BP = jnp.take_along_axis(word_BL, position_BP, axis=1)
        next_B1 = jnp.minimum(quota_B, position_BP.shape[1] - 1)[:, None]
        cut_BP = (word_BP == jnp.take_along_axis(word_BP, next_B1, axis=1)) & (next_B1 == quota_B[:, None])
        position_BP, hidden_BP = position_BP[:, :most], (hidden_BP & ~cut_BP)[:, :most]

        ordinary_V = np.flatnonzero(vocab.ordinary).astype(np.int32)
        fate_BP = jax.vmap(lambda key: jax.random.uniform(key, (most,)))(draws[:, 1])
        if self.unit == "span":
            unit_BP = jnp.take_along_axis(unit_BL, position_BP, axis=1)
            fate_BP = jnp.take_along_axis(fate_BP, _first_of_run(unit_BP), axis=1)
        random_BP = jax.vmap(lambda key: jax.random.randint(key, (most,), 0, len(ordinary_V)))(draws[:, 2])
        original_BP = jnp.take_along_axis(tokens_BL, position_BP, axis=1)
        shown_BP = jnp.where(
            fate_BP < self.mask_share + self.random_share, jnp.asarray(ordinary_V)[random_BP], original_BP
        )
        shown_BP = jnp.where(fate_BP < self.mask_share, vocab.mask_id, shown_BP)
        shown_BP = jnp.where(hidden_BP, shown_BP, original_BP)
        return {
            "tokens": placed(tokens_BL, position_BP, shown_BP),
            "original": tokens_BL,
            "positions": position_BP,
            "weights": hidden_BP.astype(jnp.float32),
        }

    def units(self, tokens_BL: Array, hideable_BL: Array, keys_B: Array, vocab: VocabSpec) -> tuple[Array, Array]:
        """Two i32[B, L]: where the word of each token begins, and the unit. What must not be hidden stands alone, and
        with single tokens for units each is a word."""
        index_L = jnp.arange(tokens_BL.shape[1])
        if self.unit == "token":
            return (jnp.broadcast_to(index_L, tokens_BL.shape),) * 2
        first = lambda begins_BL: jax.lax.cummax(jnp.where(begins_BL, index_L, 0), axis=1)
        after = lambda x_BL: jnp.concatenate([jnp.ones_like(x_BL[:, :1]), x_BL[:, :-1]], axis=1)
        apart_BL = ~hideable_BL | after(~hideable_BL)
        ends_BL = jnp.asarray(vocab.ends_word)[tokens_BL]
        begins_BL = apart_BL | jnp.asarray(vocab.starts_word)[tokens_BL] | after(ends_BL)
        if self.unit == "word":
            return (first(begins_BL),) * 2
        # The words of the row are cut into spans one after another; a span also ends where a word stands alone.
        begins_BW = jax.vmap(lambda key: self._span_begins(key, tokens_BL.shape[1]))(keys_B)
        number_BL = jnp.cumsum(begins_BL, axis=1) - 1
        return first(begins_BL), first(begins_BL & (apart_BL | jnp.take_along_axis(begins_BW, number_BL, axis=1)))

    def _span_begins(self, key: Array, words: int) -> Array:
        """bool[words]: inverts the distribution of lengths, in proportion to q^length from 1 to span_max."""
        q, u = 1 - self.span_p, jax.random.uniform(key, (words,))
        length = 1 + jnp.floor(jnp.log1p(-u * (1 - q**self.span_max)) / math.log(q)).astype(jnp.int32)
        length = jnp.minimum(length, self.span_max)
        return jnp.zeros(words, bool).at[jnp.cumsum(length) - length].set(True, mode="drop")


def ordinary(tokens: Array, vocab: VocabSpec) -> Array:
    """bool, of any shape: tokens that are text, not special ids."""
    return jnp.asarray(vocab.ordinary)[tokens]


def quota(rate: float, which_BL: Array) -> Array:
    """i32[B]: round(rate x positions of `which_BL` in the row), halves to even.

    Rounded on the host in float64, for every number of positions that a row can have.
    """
    length = which_BL.shape[1]
    return jnp.asarray(np.round(rate * np.arange(length + 1)).astype(np.int32))[which_BL.sum(axis=1)]


def placed(x_BL: Array, position_BP: Array, values_BP: Array) -> Array:
    """x_BL with these values at these positions, none of which comes twice in a row."""
    rows_B1 = jnp.arange(x_BL.shape[0])[:, None]
    return x_BL.at[rows_B1, position_BP].set(values_BP, unique_indices=True)


def _first_of_run(x_BP: Array) -> Array:
    """i32[B, P]: where the run of equal values begins that each value stands in."""
    begins_BP = jnp.concatenate([jnp.ones_like(x_BP[:, :1], bool), x_BP[:, 1:] != x_BP[:, :-1]], axis=1)
    return jax.lax.cummax(jnp.where(begins_BP, jnp.arange(x_BP.shape[1]), 0), axis=1)
