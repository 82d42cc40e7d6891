"""Denoising of spans: what was cut out of a text is asked of a decoder (T5, UL2)."""

import functools
from typing import Literal

import chz
import jax
import jax.numpy as jnp
import numpy as np

from ptjax.config import Config, UserError
from ptjax.data.tokenizers import VocabSpec
from ptjax.models.pairs import pair_net
from ptjax.objectives.base import Objective, StepContext, packed_input, positions_of, segments_of, token_metrics
from ptjax.objectives.cross_entropy import cross_entropy
from ptjax.objectives.masking import ordinary
from ptjax.partition import per_row
from ptjax.types import Array, Batch, Losses, Mask, PairInput, TextInput


@chz.chz
class Denoiser(Config):
    """How a row is corrupted."""

    rate: float = chz.field(default=0.15, doc="share of ordinary tokens that are cut out")
    mean_span: float | None = chz.field(default=3.0, doc="mean length of a span; None: one span, the end of the row")
    mode: Literal["R", "S", "X"] = chz.field(default="R", doc="which mode token announces it, where they are used")

    @chz.validate
    def _possible(self):
        if not 0 < self.rate < 1:
            raise ValueError(f"rate must be in (0, 1), not {self.rate}")
        if self.mean_span is not None and self.mean_span < 1:
            raise ValueError(f"mean_span must be at least 1 token, not {self.mean_span}")

    def counts(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        """(noise tokens, spans) of a row of n ordinary tokens, int32[length + 1] for n = 0 to `length`.

        By T5's `random_spans_noise_mask`, in its float32; but never more spans than there are tokens between them.
        """
        n = np.maximum(np.arange(length + 1), 2)  # it treats a shorter row as one of two, and then cuts that short
        noise = np.clip(np.round(n.astype(np.float32) * np.float32(self.rate)).astype(np.int32), 1, n - 1)
        spans = np.ones_like(noise)
        if self.mean_span is not None:
            spans = np.round(noise.astype(np.float32) / np.float32(self.mean_span)).astype(np.int32)
        spans = np.clip(spans, 1, n - noise)
        some = np.arange(length + 1) >= 2
        return np.where(some, noise, 0).astype(np.int32), np.where(some, spans, 0).astype(np.int32)


class Denoising:
    """What SpanCorruption and UL2 share; they say which `denoisers` there are and how many `sentinels`.

    Spans are those of T5's published `random_spans_noise_mask` over the ordinary tokens of a row. A special token
    inside a span breaks it in two, so that no span holds a special token or crosses a boundary of documents.

    Source: the text, each span replaced by a sentinel. Target: sentinel, span, sentinel, span, ..., last sentinel, for
    each document that lost something (figure 2 of T5's paper; its code ends on EOS instead). Sentinel k stands for span
    k of its *document* and is id `vocab.extra_ids[k]`, so that packed documents read as they do alone. (T5's
    tokenizer has sentinels of its own, which count down from the end of its vocabulary: they are used.) What the
    decoder reads is the target moved by one, beginning with the pad token, as in T5.

    Rows have static shapes: a source of the row's length, a target with room for the expected number of tokens and a
    sixteenth of the row for broken spans and the last sentinels of further documents. Spans at the end of a row that
    find no room there, or no sentinel in their document, are left uncorrupted.

    On an encoder-decoder the source goes to the encoder; a text body reads both as one row with the source as its
    prefix. The loss counts all target tokens; nll, accuracy and bits a byte only ordinary ones.
    """

    @property
    def needs(self):
        return frozenset({"pairs", "text"})

    def vocabulary(self, vocab):
        return vocab.extended(self.sentinels + len(self.modes))

    def _most(self, length: int) -> list[tuple[int, int]]:
        """(noise tokens, spans) of each denoiser in a row of `length` ordinary tokens, which no other row exceeds."""
        most = [tuple(int(count[-1]) for count in denoiser.counts(length)) for denoiser in self.denoisers]
        spans = max(spans for _, spans in most)
        if spans >= self.sentinels:
            raise UserError(
                f"rows of {length} tokens lose up to {spans} spans, and {type(self).__name__} has {self.sentinels} "
                f"sentinels for them and for what ends the target: set objective.sentinels={spans + 1} or more"
            )
        return most

    def sizes(self, length: int) -> tuple[int, int]:
        """(source, target): positions of a corrupted row of `length` tokens."""
        return length, max(noise + spans for noise, spans in self._most(length)) + 1 + -(-length // 16)

    def longest(self, length):
        return sum(self.sizes(length))

    def predicted(self, length):
        counts = [noise + spans + 1 for noise, spans in self._most(length)]
        return {"span": sum(counts) / len(counts)}

    def projected(self, length):
        return self.sizes(length)[1]

    def flops_per_row(self, body, length, vocab):
        source, target = self.sizes(length)
        if "pairs" in body.offers:
            flops = body.flops_per_pair(source, target)
        else:
            flops = (source + target) * body.flops_per_token(source + target)
        return flops + target * 2.0 * body.width * body.padded_vocab(vocab.size)

    def corrupt(self, batch, context):
        """Replaces tokens [B, S], the source, and adds target [B, T], segments [B, S] and target_segments [B, T], the
        documents of both, original [B, L], the tokens as they were, and denoiser [B], the number of the one drawn."""
        pose = jax.vmap(functools.partial(self._pose, vocab=context.vocab))
        rows = (batch["tokens"], segments_of(batch["tokens"], context.vocab), context.keys)
        return batch | {"original": batch["tokens"]} | per_row(pose, *rows)

    def _pose(self, tokens_L: Array, segments_L: Array, key: Array, *, vocab: VocabSpec) -> Batch:
        """One row of `corrupt`."""
        length = len(tokens_L)
        source_size, target_size = self.sizes(length)
        ordinary_L = ordinary(tokens_L, vocab)
        draw_key, noise_key = jax.random.split(key)
        drawn = jax.random.randint(draw_key, (), 0, len(self.denoisers))
        counts = np.stack([denoiser.counts(length) for denoiser in self.denoisers])  # [denoisers, 2, L + 1]
        noise, spans = jnp.asarray(counts)[drawn, :, ordinary_L.sum()]
        most = max(spans for _, spans in self._most(length))
        among_L = noise_mask(noise_key, ordinary_L.sum(), noise, spans, length=length, most=most)
        cut_L = ordinary_L & among_L[jnp.cumsum(ordinary_L) - 1]

        starts_L, ends_L = cut_L & ~_before(cut_L), cut_L & ~_after(cut_L)
        number_L = _count_in_segment(starts_L, segments_L) - 1
        # Room that the target takes up to here; a document's last sentinel is counted with its first one.
        room_L = jnp.cumsum(cut_L.astype(jnp.int32) + starts_L + (starts_L & (number_L == 0)))
        room_L = jax.lax.cummin(jnp.where(ends_L, room_L, 2 * length), reverse=True)  # up to the end of the span
        cut_L &= (room_L <= target_size) & (number_L < self.sentinels - 1)
        starts_L, ends_L = starts_L & cut_L, ends_L & cut_L

        own_ids = jnp.asarray(vocab.extra_ids)
        sentinel_L, next_sentinel_L = own_ids[number_L], own_ids[number_L + 1]
        real_L = tokens_L != vocab.pad_id
        begins_L = real_L & (segments_L != jnp.concatenate([jnp.full((1,), -1), segments_L[:-1]]))
        source = [jnp.where(starts_L, sentinel_L, tokens_L)]
        kept = [starts_L | (real_L & ~cut_L)]
        if self.modes:
            # At the beginning of each document, as long as there is room: what is cut out makes it.
            begins_L &= jnp.cumsum(begins_L) <= source_size - kept[0].sum()
            modes = np.array([self.modes.index(denoiser.mode) for denoiser in self.denoisers], np.int32)
            mode = own_ids[self.sentinels + jnp.asarray(modes)[drawn]]
            source, kept = [jnp.broadcast_to(mode, (length,)), *source], [begins_L, *kept]
        source_S, source_segments_S = _gathered(source, kept, segments_L, source_size, vocab.pad_id)

        # The last span of its document: the next one is another's.
        next_L = jax.lax.cummin(jnp.where(starts_L, segments_L, length), reverse=True)
        closes_L = ends_L & (jnp.append(next_L[1:], length) != segments_L)
        target_T, target_segments_T = _gathered(
            [sentinel_L, tokens_L, next_sentinel_L], [starts_L, cut_L, closes_L], segments_L, target_size, vocab.pad_id
        )
        return {
            "tokens": source_S,
            "segments": source_segments_S,
            "target": target_T,
            "target_segments": target_segments_T,
            "denoiser": drawn,
        }

    def inputs(self, batch, vocab):
        target_BT, segments_BT = batch["target"], batch["target_segments"]
        positions_BT = positions_of(segments_BT)
        shifted_BT = jnp.where(positions_BT == 0, vocab.pad_id, jnp.roll(target_BT, 1, axis=1))
        mask = Mask(causal=True, valid=target_BT != vocab.pad_id, segments=segments_BT)
        source = packed_input(batch["tokens"], batch["segments"], vocab, causal=False)
        return PairInput(source, TextInput(shifted_BT, positions_BT, mask))

    def weights(self, batch, vocab):
        return {"span": jnp.sum(batch["target"] != vocab.pad_id, dtype=jnp.float32)}

    def net(self, body, vocab):
        return pair_net(body, vocab.size)

    def losses(self, net, variables, batch: Batch, context: StepContext) -> Losses:
        vocab = context.vocab
        inputs, labels_N = self.inputs(batch, vocab), batch["target"].reshape(-1)
        hidden = context.apply(net, variables, inputs, method="hidden")
        h_ND = hidden.last.reshape(-1, hidden.last.shape[-1])
        features, table, bias = net.apply(variables, h_ND, method="scores")
        scores = cross_entropy(features, table, bias, labels_N, size=vocab.size)
        totals = {"span": jnp.sum(scores.loss * (labels_N != vocab.pad_id))}
        text_N = ordinary(labels_N, vocab).astype(jnp.float32)
        return Losses(totals, token_metrics(scores, labels_N, text_N, vocab))


@chz.chz
class SpanCorruption(Denoising, Objective):
    """Raffel et al., 2020: T5's denoising objective, see `Denoising`."""

    rate: float = chz.field(default=0.15, doc="share of ordinary tokens that are cut out")
    mean_span: float = chz.field(default=3.0, doc="mean length of a span")
    sentinels: int = chz.field(default=100, doc="ids that stand for spans: one more than the spans of a document")

    @chz.validate
    def _possible(self):
        self.denoisers  # says what is wrong with a rate or a span

    @property
    def denoisers(self) -> tuple[Denoiser, ...]:
        return (Denoiser(rate=self.rate, mean_span=self.mean_span),)

    @property
    def modes(self) -> tuple[str, ...]:
        return ()


# Tay et al., 2022, table 1.
DENOISERS = (
    Denoiser(rate=0.15, mean_span=3.0, mode="R"),
    Denoiser(rate=0.15, mean_span=8.0, mode="R"),
    Denoiser(rate=0.25, mean_span=None, mode="S"),
    Denoiser(rate=0.5, mean_span=3.0, mode="X"),
    Denoiser(rate=0.5, mean_span=8.0, mode="X"),
    Denoiser(rate=0.15, mean_span=64.0, mode="X"),
    Denoiser(rate=0.5, mean_span=64.0, mode="X"),
)


@chz.chz
class UL2(Denoising, Objective):
    """Tay et al., 2022: each example is corrupted by one of several denoisers, all equally likely, see `Denoising`.

    A mode token, [R], [S] or [X], at the beginning of each document in the source says which kind it was.
    """

    denoisers: tuple[Denoiser, ...] = chz.field(default=DENOISERS, doc="regular, sequential and extreme denoisers")
    mode_tokens: bool = chz.field(default=True, doc="announce the kind of denoiser in the source")
    sentinels: int = chz.field(default=256, doc="ids that stand for spans: one more than the spans of a document")

    @chz.validate
    def _possible(self):
        if not self.denoisers:
            raise ValueError("denoisers: at least one")

    @property
    def modes(self) -> tuple[str, ...]:
        return ("R", "S", "X") if self.mode_tokens else ()


def noise_mask(key: Array, n: Array, noise: Array, spans: Array, *, length: int, most: int) -> Array:
    """bool[length]: T5's `random_spans_noise_mask` of a row of n tokens, `noise` of them noise in `spans` spans.

    A part that is kept and a span of noise by turns, beginning with a kept one; the lengths of the spans, and of what
    is between them, are compositions drawn uniformly. n, noise, spans: i32[]; length, most: their static limits.
    """
    noise_key, kept_key = jax.random.split(key)
    of_noise_L = _composition(noise_key, noise, spans, length, most)
    of_kept_L = _composition(kept_key, n - noise, spans, length, most)
    place_L = jnp.arange(length)
    kept_M = jnp.zeros((most,), jnp.int32).at[of_kept_L].add(place_L < n - noise, mode="drop")
    # A noise token comes behind the noise tokens before it, and behind all that is kept up to its span.
    where_L = place_L + jnp.cumsum(kept_M)[jnp.minimum(of_noise_L, most - 1)]
    return jnp.zeros((length,), bool).at[jnp.where(place_L < noise, where_L, length)].set(True, mode="drop")


def _composition(key: Array, items: Array, parts: Array, length: int, most: int) -> Array:
    """i32[length]: the part, from 0, of each of `items` in a row that is cut in `parts` parts, none of them empty.

    parts - 1 of the items - 1 gaps, all choices equally likely.
    """
    gap_G = jnp.arange(1, length)  # before item 1, 2, ...
    score_G = jnp.where(gap_G < items, jax.random.uniform(key, (length - 1,)), -1.0)
    cut_M = jax.lax.top_k(score_G, min(most, length - 1))[1] + 1
    cut_M = jnp.where(jnp.arange(len(cut_M)) < parts - 1, cut_M, length)
    return jnp.cumsum(jnp.zeros((length,), jnp.int32).at[cut_M].set(1, mode="drop"))


def _before(flag_L: Array) -> Array:
    return jnp.concatenate([jnp.zeros_like(flag_L[:1]), flag_L[:-1]])


def _after(flag_L: Array) -> Array:
    return jnp.concatenate([flag_L[1:], jnp.zeros_like(flag_L[:1])])


def _count_in_segment(flag_L: Array, segments_L: Array) -> Array:
    """i32[L]: how many flags there are in each position's segment, up to it and with it."""
    count_L = jnp.cumsum(flag_L)
    before_L = count_L - flag_L
    begins_L = jnp.append(True, segments_L[1:] != segments_L[:-1])
    return count_L - jax.lax.cummax(jnp.where(begins_L, before_L, 0))


def _gathered(tokens, kept, segments_L: Array, size: int, pad: int) -> tuple[Array, Array]:
    """Of the tokens that positions give, in the order of positions and then of the list, those kept: i32[size], and the
    segment of each; pad tokens of segment -1 behind them."""
    kept_N = jnp.stack(kept, axis=1).reshape(-1)
    place_N = jnp.where(kept_N, jnp.cumsum(kept_N) - 1, size)

    def moved(values_N, fill):
        return jnp.full((size,), fill, jnp.int32).at[place_N].set(values_N.astype(jnp.int32), mode="drop")

    return moved(jnp.stack(tokens, axis=1).reshape(-1), pad), moved(jnp.repeat(segments_L, len(kept)), -1)
