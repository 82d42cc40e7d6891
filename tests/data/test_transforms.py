"""Sentence pairs: text that is verbatim, labels that are true, a question that follows from (seed, step, row)."""

import pickle

import chz
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from ptjax.config import UserError
from ptjax.data.pipeline import Data, Pipeline, Shard, batch_at
from ptjax.data.tokenizers import VocabSpec
from ptjax.data.transforms import SentencePairs, _bits
from tests.streams import Text


def split_pair(tokens: np.ndarray, vocab: VocabSpec) -> tuple[np.ndarray, np.ndarray]:
    """A and B of [CLS] A [SEP] B [SEP] [PAD]..., whose layout is checked."""
    first, second = np.flatnonzero(tokens == vocab.sep_id)
    assert tokens[0] == vocab.cls_id and (tokens[second + 1 :] == vocab.pad_id).all()
    a, b = tokens[1:first], tokens[first + 1 : second]
    assert len(a) and len(b) and not set(vocab.special_ids) & {*a.tolist(), *b.tolist()}
    return a, b


def begins_sentence(before: int, token: int, vocab: VocabSpec) -> bool:
    return bool(vocab.ends_sentence[before] and not vocab.ends_sentence[token])


def begins_word(before: int, token: int, vocab: VocabSpec) -> bool:
    return bool(vocab.starts_word[token] or vocab.ends_word[before])


def begins(piece: np.ndarray, vocab: VocabSpec, kind: str) -> list[int]:
    """Where its sentences begin, or its words where that is too seldom to cut it."""
    sentences = [k for k in range(1, len(piece)) if begins_sentence(piece[k - 1], piece[k], vocab)]
    if len(sentences) >= {"next": 1, "order": 3}[kind]:
        return sentences
    return [k for k in range(1, len(piece)) if begins_word(piece[k - 1], piece[k], vocab)]


def cuts(piece: np.ndarray, vocab: VocabSpec, kind: str) -> list[int]:
    """Where a piece may be cut."""
    return begins(piece, vocab, kind)[1:-1] if kind == "order" else begins(piece, vocab, kind)


def parts(piece: np.ndarray, cut: int, swapped: bool, vocab: VocabSpec) -> tuple[list[int], list[int]]:
    """A and B; swapped, only what is whole."""
    edges, piece = begins(piece, vocab, "order"), piece.tolist()
    if not swapped:
        return piece[:cut], piece[cut:]
    return piece[: edges[0]] + piece[cut : edges[-1]], piece[edges[0] : cut] + piece[edges[-1] :]


def is_slice(tokens: np.ndarray, whole: list[int]) -> bool:
    start = whole.index(tokens[0]) if tokens[0] in whole else len(whole)
    return tokens.tolist() == whole[start : start + len(tokens)]


def longest_piece(row: np.ndarray, vocab: VocabSpec) -> np.ndarray:
    pieces, current = [[]], []
    for token in row.tolist():
        current = [] if token in (vocab.boundary_id, vocab.pad_id) else [*current, token]
        pieces.append(current)
    return np.array(max(pieces, key=len), np.int32)


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 150), min_size=2, max_size=12),
    length=st.sampled_from([5, 8, 32, 64]),
    side=st.sampled_from(["end", "begin"]),
    kind=st.sampled_from(["next", "order"]),
    seed=st.integers(0, 2**32 - 1),
    step=st.integers(0, 10**6),
)
def test_pairs_are_verbatim_and_their_labels_true(sizes, length, side, kind, seed, step):
    text = Text.of(sizes, length, side, seed=len(sizes))
    vocab, batch = text.vocab, text.batch()
    out = SentencePairs(kind)(batch, text, seed, step)
    assert out["tokens"] is batch["tokens"] and out["index"] is batch["index"]
    assert out[f"{kind}_tokens"].shape == out[f"{kind}_types"].shape == batch["tokens"].shape
    types = {name: array.dtype for name, array in out.items() if name.startswith(kind)}
    names = [f"{kind}_{name}" for name in ("tokens", "types", "label", "weight")]
    assert types == dict(zip(names, [np.int32, np.int32, np.int32, np.float32]))
    for row, tokens, kinds, label, weight in zip(batch["tokens"], *(out[name] for name in types)):
        piece = longest_piece(row, vocab)
        if not cuts(piece, vocab, kind):
            assert weight == 0 and (tokens == vocab.pad_id).all() and not kinds.any() and label == 0
            continue
        assert weight == 1
        a, b = split_pair(tokens, vocab)
        assert (kinds == np.where((np.arange(length) >= len(a) + 2) & (tokens != vocab.pad_id), 1, 0)).all()
        at, bt = text.places(a), text.places(b)
        own, other = text.document_of(at[0]), text.document_of(bt[0])
        assert text.document_of(bt[-1]) == other
        if kind == "next":
            assert (own != other) == bool(label)
        else:
            assert own == other
        surplus = max(len(piece) + 3 - length, 0)
        if not (kind == "next" and label):
            assert len(a) + len(b) == len(piece) - surplus
            wholes = [parts(piece, cut, bool(label), vocab) for cut in cuts(piece, vocab, kind)]
            assert any(is_slice(a, whole_a) and is_slice(b, whole_b) for whole_a, whole_b in wholes)
        else:
            assert (np.diff(at) == 1).all() and (np.diff(bt) == 1).all()  # verbatim text, no boundary inside
            assert len(a) + len(b) <= length - 3
            assert set(a.tolist()) <= set(piece.tolist())
            start, stop = text.bounds[other]
            inside = range(start, stop - 1) if side == "end" else range(start + 1, stop)
            assert bt[0] >= inside[0] and bt[-1] <= inside[-1]
            if not surplus:  # nothing was cut off
                assert len(b) == min(len(piece) - len(a), inside[-1] + 1 - bt[0])
                assert len(b) == len(piece) - len(a) or bt[0] == inside[0]
                back = text.tokens[max(bt[0] - length, inside[0]) : bt[0] + 1]
                starts = [k for k in range(1, len(back)) if begins_word(back[k - 1], back[k], vocab)]
                if begins_sentence(piece[len(a) - 1], piece[len(a)], vocab):  # B's sort of beginning, where there is
                    starts = begins(back, vocab, "next")
                assert bt[0] == inside[0] or len(back) - 1 in starts or not starts


def test_the_other_sentence_begins_where_a_sentence_does():
    text = Text.of([400] * 4, 64, "end")
    found = []
    for step in range(30):
        out = SentencePairs("next")(text.batch(), text, 0, step)
        for tokens, label, row in zip(out["next_tokens"], out["next_label"], out["tokens"]):
            a, b = split_pair(tokens, text.vocab)
            piece = longest_piece(row, text.vocab)
            if label and len(piece) + 3 <= 64 and begins_sentence(*piece[len(a) - 1 : len(a) + 1], text.vocab):
                begin = text.places(b[:1]).item()
                found.append(begin % 401 == 0 or begins_sentence(*text.tokens[begin - 1 : begin + 1], text.vocab))
    assert len(found) > 30 and all(found)


@pytest.mark.parametrize("kind", ["next", "order"])
def test_shares(kind):
    """Half of the pairs are false; cuts, other documents and places in them are drawn evenly."""
    text = Text.of([300] * 5, 50, "end")
    rows = np.repeat([2], 4000)  # one row, which step by step is asked anew
    pairs = [SentencePairs(kind)(text.batch(rows[:1]), text, 0, step) for step in range(4000)]
    label = np.array([out[f"{kind}_label"][0] for out in pairs])
    assert abs(label.mean() - 0.5) < 0.03
    row = text.batch(rows[:1])["tokens"][0]
    halves = [split_pair(out[f"{kind}_tokens"][0], text.vocab) for out in pairs]
    if kind == "order":
        whole = [text.places(b[:1]).item() - 100 for (a, b), no in zip(halves, label) if not no]
        allowed = cuts(row, text.vocab, kind)
        assert len(allowed) > 3
        # The three tokens too many shift the cut by as many at most.
        nearest = [max(cut for cut in allowed if cut <= begin) for begin in whole]
        counts = np.array([nearest.count(cut) for cut in allowed]) / len(whole)
        gaps = np.diff(allowed)
        assert (np.abs(counts - 1 / len(allowed)) < 0.04).all() if gaps.min() > 3 else counts.min() > 0
    else:
        places = np.array([text.places(b[:1]).item() for (a, b), no in zip(halves, label) if no])
        others, counts = np.unique(places // 301, return_counts=True)
        assert others.tolist() == [1, 2, 3, 4] and (np.abs(counts / len(places) - 0.25) < 0.03).all()
        assert np.ptp(places % 301) > 200


@pytest.mark.parametrize("sentence", [8, 60])
def test_how_a_and_b_begin_and_end_does_not_tell_the_order(sentence):
    """Whether the pieces are cut at sentences or, where these are long, at words."""
    vocab = VocabSpec.synthetic(64)
    ends, starts = vocab.ends_sentence, vocab.starts_word
    random = np.random.default_rng(0)
    others, enders = np.flatnonzero(~ends)[7:], np.flatnonzero(ends)
    tokens = np.where(
        random.random(64_000) < 1 / sentence, random.choice(enders, 64_000), random.choice(others, 64_000)
    )
    text = Text.join([tokens], 32, vocab)
    out = SentencePairs("order")(text.batch(np.arange(1, 1999)), text, 0, 0)
    keep = out["order_weight"] > 0
    assert keep.mean() > 0.95
    label, pairs = out["order_label"][keep], [split_pair(row, vocab) for row in out["order_tokens"][keep]]
    for rule in (
        lambda a, b: ends[a[-1]],
        lambda a, b: ends[b[-1]],
        lambda a, b: starts[a[0]],
        lambda a, b: starts[b[0]],
        lambda a, b: len(a) > len(b),
    ):
        said = np.array([rule(a, b) for a, b in pairs])
        assert 0.45 < (said == label).mean() < 0.55


def test_a_row_without_a_pair():
    text = Text.of([1, 40, 1, 1, 1, 1, 2], 7, "end")
    out = SentencePairs("next")(text.batch([0, 6, -1]), text, 0, 0)
    assert text.batch([6])["tokens"][0, :2].tolist() != [3, 3]
    assert out["next_weight"].tolist() == [1, 0, 0] and (out["next_tokens"][1:] == text.vocab.pad_id).all()


def test_mistakes():
    one = Text.of([50], 10, "end")
    SentencePairs("order").check(one)
    with pytest.raises(UserError, match=r"one alone.*\(data.corpus.\)source.documents=blank_line"):
        SentencePairs("next").check(one)
    with pytest.raises(UserError, match="length=4: .* need 5"):
        SentencePairs("order").check(Text.of([50, 50], 4, "end"))


def test_the_bits_are_a_promise_to_recorded_runs():
    """It may not change with versions of ptjax or NumPy."""
    assert _bits(1, 2, 3) == [12041484836206075626, 2041653232955156763, 13509355576974963856, 11687580399408351183]
    assert len({_bits(*numbers)[k] for numbers in np.ndindex(3, 3, 3) for k in range(4)}) == 4 * 27


@pytest.fixture
def data(tiny_corpus):
    return Data(corpus=tiny_corpus, length=32, batch_size=24, window=16)


def opened(data, *args, kind="next", **options):
    return Pipeline(data, *args, transforms=[SentencePairs(kind)], **options)


def by_index(batches) -> dict[int, tuple]:
    rows = (row for batch in batches for row in zip(*batch.values()))
    return {int(row[0]): tuple(np.asarray(x).tolist() for x in row[1:]) for row in rows if row[0] >= 0}


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


@pytest.mark.parametrize("kind", ["next", "order"])
def test_pairs_do_not_depend_on_the_reader(data, kind):
    """Any split over processes, worker processes, a pickled pipeline: the same pairs."""
    pipeline = opened(data, kind=kind, seed=3)
    whole = batch_at(pipeline, 7)
    assert whole[f"{kind}_weight"].mean() > 0.9 and 0 < whole[f"{kind}_label"].mean() < 1
    for count in (2, 3):
        parts = [batch_at(pipeline, 7, Shard(i, count)) for i in range(count)]
        assert same({k: np.concatenate([part[k] for part in parts]) for k in whole}, whole)
    assert same(batch_at(pickle.loads(pickle.dumps(pipeline)), 7), whole)
    assert same(next(pipeline.iterate(7, 8)), whole)
    if kind == "next":  # reads from the stream
        assert same(next(pipeline.iterate(7, 8, workers=1)), whole)
    assert not np.array_equal(batch_at(opened(data, kind=kind, seed=4), 7)[f"{kind}_label"], whole[f"{kind}_label"])


def test_a_row_is_asked_anew_in_every_epoch_and_always_alike_in_validation(data):
    pipeline = opened(data)
    n = pipeline.steps_per_epoch - 1
    first, second = (by_index(batch_at(pipeline, e * (n + 1) + s) for s in range(n)) for e in (0, 1))
    both = first.keys() & second.keys()
    assert len(both) > 1000 and np.mean([first[i][3] == second[i][3] for i in both]) < 0.6
    validation = [
        by_index(opened(d, "validation", shuffle=False).one_pass())
        for d in (data, chz.replace(data, batch_size=10), chz.replace(data, order="contiguous"))
    ]
    assert validation[0] == validation[1] == validation[2]
