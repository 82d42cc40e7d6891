"""Laws of what may be known: nothing of another document, nothing of the future, and never the answer."""

import math

import numpy as np

from ptjax.check.questions import aligned, texts
from ptjax.check.result import Result, at_least, at_most, failed, of_each_part, skipped, worst
from ptjax.check.subject import ROWS, Scan, Subject
from ptjax.objectives.base import segments_of
from ptjax.types import PairInput, TextInput

ROUNDS = 8
MARGIN = 0.03  # of the entropy, for what is learned of a few thousand random tokens by chance


@of_each_part
def documents(subject: Subject) -> Result:
    """Another token in one document, and what the body makes of the others stays bitwise the same."""
    vocab, host = subject.vocab, subject.packed(0)
    segments_BL = np.asarray(segments_of(host["tokens"], vocab))
    number, compared, reached, read = 0.0, 0, 0, False
    for round in range(ROUNDS):
        place_B = _places(host["tokens"], subject, round)
        other = host | {"tokens": _replaced(host["tokens"], place_B, subject)}
        one, two = (subject.inputs(subject.corrupted(rows)) for rows in (host, other))
        changed = [a.tokens != b.tokens for a, b in zip(texts(one), texts(two))]
        if not any(map(np.any, changed)):
            continue
        read = True
        before, after = subject.hidden(one), subject.hidden(two)
        in_place = aligned(one, host["tokens"], vocab)
        for row in range(ROWS):
            if in_place:
                own = {int(segments_BL[row, place_B[row]])}
                each = (segments_BL[row],)
            else:
                each = tuple(_segments(text, row) for text in texts(one))
                own = {int(d) for segments, where in zip(each, changed) for d in segments[where[row]]}
            if not any(where[row].any() for where in changed):
                continue
            others = ~np.isin(each[-1], list(own)) & _valid(texts(one)[-1], row)
            gap_L = np.abs(before.last[row] - after.last[row]).max(axis=-1)
            number, compared = max(number, gap_L[others].max(initial=0)), compared + others.sum()
            reached += (gap_L[~others] > 0).sum()
            if before.queries is not None:
                target = one.targets[row]
                gap_P = np.abs(before.queries[row] - after.queries[row]).max(axis=-1)
                number = max(number, gap_P[others[target]].max(initial=0))
    if not read:
        return skipped("what the body reads does not come from the packed row")
    if not compared:
        return failed("all positions of a row are of one document: mask.segments does not tell them apart")
    if not reached:
        return failed("the body does not see what it reads: no hidden state changed")
    return at_most(number, 0.0, "change of hidden states in other documents")


@of_each_part
def future(subject: Subject) -> Result:
    """Where the mask is causal, or follows an order, another token leaves bitwise the same what precedes it."""
    host = subject.packed(0)
    number, compared, reached = 0.0, 0, 0
    for round in range(ROUNDS):
        inputs = subject.inputs(subject.corrupted(host, round))
        pair = isinstance(inputs, PairInput)
        text = inputs.target if pair else inputs
        if not text.mask.causal and text.mask.order is None:
            return skipped("what the body reads, it reads in both directions")
        place_B = _places(text.tokens, subject, round)
        other = text.replace(tokens=_replaced(text.tokens, place_B, subject))
        before = subject.hidden(inputs)
        after = subject.hidden(inputs.replace(target=other) if pair else other)
        for row, place in enumerate(place_B):
            blind_L, blind_P = _blind(text, row, place)
            blind_L &= _valid(text, row)
            gap_L = np.abs(before.last[row] - after.last[row]).max(axis=-1)
            number, compared = max(number, gap_L[blind_L].max(initial=0)), compared + blind_L.sum()
            reached += (gap_L[~blind_L] > 0).sum()
            if before.queries is not None:
                gap_P = np.abs(before.queries[row] - after.queries[row]).max(axis=-1)
                number, compared = max(number, gap_P[blind_P].max(initial=0)), compared + blind_P.sum()
    if not compared:
        return skipped("every position may see every other")
    if not reached:
        return failed("the body does not see what it reads: no hidden state changed")
    return at_most(number, 0.0, "change of hidden states before the token")


def _blind(text: TextInput, row: int, place: int) -> tuple[np.ndarray, np.ndarray | None]:
    """bool[L], bool[P]: the positions, and the targets of a second stream, that must not depend on the token at
    `place`."""
    mask, at_L = text.mask, np.arange(text.tokens.shape[1])
    blind_L = np.zeros(at_L.shape, bool)
    if mask.causal and not (mask.prefix is not None and mask.prefix[row, place]):
        blind_L |= at_L < place
    blind_P = None if text.targets is None else blind_L[text.targets[row]]
    if mask.order is not None:
        blind_L |= mask.order[row] < mask.order[row, place]
        if blind_P is not None:
            rank_P = mask.order[row, text.targets[row]]
            # A target of the lowest rank sees nothing: it only fills up, and attention over nothing is over all.
            blind_P = (blind_P | (rank_P <= mask.order[row, place])) & (rank_P > mask.order[row].min())
    return blind_L, blind_P


@of_each_part
def answer(subject: Subject) -> Result:
    """Random tokens, never twice the same: nobody can guess them. A model that learns to has been shown the answer."""
    subject, steps = subject.short, 4 * Scan.CHUNK
    count = subject.pieces.ordinary.sum()
    results = []
    for scan, learner in zip(subject.adam, subject.stages):
        state, history = scan.start(), []
        for start in range(0, steps, Scan.CHUNK):
            state, metrics = scan.run(state, [subject.ordinary(start + i) for i in range(Scan.CHUNK)])
            history += metrics
        late = history[-Scan.CHUNK :]
        names = sorted({key for metrics in late for key in metrics if key.endswith(("nll", "nelbo"))})
        for key in names:
            values = [metrics[key] for metrics in late if key in metrics]
            known = learner.objective.visible()
            entropy = math.log(count) * (1 - known)
            error = np.std(values) / len(values) ** 0.5
            note = f"{key} in nats, of random tokens" + (f", {known:.0%} of them shown" if known else "")
            results.append((key, at_least(np.mean(values), entropy * (1 - MARGIN) - 3 * error, note)))
    if not results:
        return skipped("no metric is a negative log-likelihood of tokens (named ...nll or ...nelbo)")
    return worst(results)


def _places(tokens_BL: np.ndarray, subject: Subject, round: int) -> np.ndarray:
    """int[B]: an ordinary token of each row; the first one where there is none."""
    random = np.random.default_rng(round)
    return np.argmax(random.random(tokens_BL.shape) * subject.vocab.ordinary[tokens_BL], axis=1)


def _replaced(tokens_BL: np.ndarray, place_B: np.ndarray, subject: Subject) -> np.ndarray:
    """With another token of the same kind at these places, so that words begin and end where they did."""
    vocab, rows = subject.pieces, np.arange(len(tokens_BL))
    kind_V = np.stack([vocab.starts_word, vocab.ends_word, vocab.ends_sentence]).T
    tokens = tokens_BL.copy()
    for row, token in zip(rows, tokens_BL[rows, place_B]):
        if token < vocab.size and vocab.ordinary[token]:
            like = np.flatnonzero(vocab.ordinary & (kind_V == kind_V[token]).all(axis=1))
            tokens[row, place_B[row]] = like[(np.searchsorted(like, token) + 1) % len(like)]
    return tokens


def _segments(text: TextInput, row: int) -> np.ndarray:
    segments = text.mask.segments
    return np.zeros(text.tokens.shape[1], int) if segments is None else segments[row]


def _valid(text: TextInput, row: int) -> np.ndarray:
    valid = text.mask.valid
    return np.ones(text.tokens.shape[1], bool) if valid is None else valid[row]
