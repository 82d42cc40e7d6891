"""Units, rates and static masks of masked language models. What holds for every setting is in tests/contracts."""

import functools

import numpy as np
import pytest

from ptjax.objectives import MLM
from ptjax.objectives.masking import quota
from tests.contracts import cases
from tests.contracts.test_corruption import word_numbers
from tests.objectives.posing import ORDINARY, pose, text

VOCAB = cases.VOCAB
SPANS = MLM(rate=0.3, unit="span", mask_share=0.6, random_share=0.2)
RARE = MLM(rate=0.02, unit="span", mask_share=0.5, random_share=0.0)
WORDS = ORDINARY[VOCAB.starts_word[ORDINARY]]  # each a word of its own


def test_spans_are_of_whole_words_and_fill_the_quota():
    longest = 0
    for step in range(30):
        batch = cases.batch(step)
        out = pose(SPANS, batch, step)
        for row, tokens in enumerate(batch["tokens"]):
            chosen = out["positions"][row][out["weights"][row] > 0]
            ordinary = ~np.isin(tokens, VOCAB.special_ids)
            words = word_numbers(tokens, VOCAB)
            quota = round(SPANS.rate * int(ordinary.sum()))
            assert ordinary[chosen].all() and len(set(chosen)) == len(chosen)
            assert set(np.flatnonzero(np.isin(words, words[chosen]))) == set(chosen)
            assert quota - np.bincount(words[ordinary]).max(initial=1) < len(chosen) <= quota
            longest = max([longest, *(len(run) for run in runs(chosen))])
    assert longest >= 6  # there are spans


def runs(positions) -> list[np.ndarray]:
    """Maximal runs of successive positions."""
    positions = np.sort(positions)
    return np.split(positions, np.flatnonzero(np.diff(positions) > 1) + 1) if len(positions) else []


@functools.cache
def rare_spans() -> list[np.ndarray]:
    """Shown tokens of spans in long rows of words of one token, so few that hardly two ever touch."""
    spans = []
    for step in range(8):
        tokens = np.random.default_rng(step).choice(WORDS, (64, 2048)).astype(np.int32)
        out = pose(RARE, {"index": np.arange(64, dtype=np.int32), "tokens": tokens}, step)
        for row in range(64):
            spans += [out["tokens"][row, run] for run in runs(out["positions"][row][out["weights"][row] > 0])]
    return spans


def test_span_lengths_are_spanberts():
    """Geometric with p = 0.2, cut off at 10 and renormalised: the paper's mean is 3.8 words. Two spans in a hundred
    touch another, and the last of a row, one in ten, may be shortened."""
    lengths = np.array([len(span) for span in rare_spans()])
    assert len(lengths) > 4000
    expected = 0.2 * 0.8 ** np.arange(10) / (1 - 0.8**10)
    assert expected @ np.arange(1, 11) == pytest.approx(3.8, abs=0.01)
    assert lengths.mean() == pytest.approx(3.8, abs=0.25)
    shares = np.bincount(lengths, minlength=12)[1:11] / len(lengths)
    np.testing.assert_allclose(shares, expected, atol=0.025)
    assert (lengths > 10).mean() < 0.02  # not 13 %, which would be cut to ten if lengths were clipped


def test_a_span_has_one_fate():
    """Half of them are all masks and half are as they were."""
    kinds = np.array([(span == VOCAB.mask_id).mean() for span in rare_spans() if len(span) > 1])
    assert ((kinds > 0) & (kinds < 1)).mean() < 0.04  # where two touch
    assert (kinds == 1).mean() == pytest.approx(0.5, abs=0.04)


def test_a_quota_is_rounded_exactly():
    """In float64, halves to even, as `most_hidden` and `predicted` count."""
    rows = np.arange(41)[:, None] > np.arange(40)
    for rate in (0.15, 0.3, 1 / 6, 0.05):
        assert quota(rate, rows).tolist() == [round(rate * n) for n in range(41)]


def test_spans_fall_everywhere_alike():
    """But for the first few words, by a tenth: a span that is shortened keeps its begin, and a row begins with one."""
    counts, steps = np.zeros(64), 60
    for step in range(steps):
        out = pose(SPANS, text(64, 64, step), step)
        counts += np.bincount(out["positions"][out["weights"] > 0], minlength=64)
    share = counts / (64 * steps)
    assert np.abs(share.reshape(8, 8).mean(axis=1) - share.mean()).max() < 0.03
    assert 0.28 < share.mean() <= 0.3


@pytest.mark.parametrize(
    "schedule,rates", [("linear", (0.3, 0.2625, 0.225, 0.15)), ("cosine", (0.3, 0.278, 0.225, 0.15))]
)
def test_rates_follow_the_run(schedule, rates):
    """From rate to final_rate: at 0, 1/4, 1/2 and 1 of the run, to the token."""
    objective = MLM(rate=0.3, final_rate=0.15, rate_schedule=schedule)
    for progress, rate in zip((0, 0.25, 0.5, 1), rates):
        out = pose(objective, text(4, 1000), progress=progress)
        assert out["positions"].shape == (4, 300) == (4, objective.projected(1000))
        np.testing.assert_allclose(out["weights"].sum(axis=1), 1000 * rate, atol=0.51)
        assert ((out["tokens"] != out["original"]).sum(axis=1) <= out["weights"].sum(axis=1)).all()
    assert objective.predicted(1000)["mlm"] == pytest.approx(225, abs=0.1)


def test_rates_may_rise():
    objective = MLM(rate=0.1, final_rate=0.4)
    assert pose(objective, text(2, 100), progress=0.0)["weights"].sum(axis=1).tolist() == [10, 10]
    assert pose(objective, text(2, 100), progress=1.0)["weights"].sum(axis=1).tolist() == [40, 40]


def test_static_masks_are_kept():
    """Each example has three masks of its own, used equally often; dynamic ones never come twice."""
    static, dynamic, batch, steps = MLM(static_masks=3), MLM(), text(8, 64), 120
    shown = lambda objective: np.stack([pose(objective, batch, step)["tokens"] for step in range(steps)])
    kept = shown(static)
    for example in range(8):
        different, counts = np.unique(kept[:, example], axis=0, return_counts=True)
        assert len(different) == 3
        assert np.abs(counts - steps / 3).max() < 5 * (steps * 2 / 9) ** 0.5
    assert len(np.unique(shown(dynamic).reshape(-1, 64), axis=0)) == 8 * steps
    same = (kept == kept[0]).all(axis=2)  # examples draw on their own
    assert (same.any(axis=1) & ~same.all(axis=1)).any()


def test_static_masks_are_the_examples_own():
    """Two examples of one text have masks of their own."""
    batch = text(2, 64)
    batch["tokens"][1] = batch["tokens"][0]
    masks = {tuple(row) for step in range(40) for row in pose(MLM(static_masks=3), batch, step)["tokens"].tolist()}
    assert len(masks) == 6


def test_the_answer_is_not_in_the_question():
    """Other words at the hidden positions, same question, where every one of them is masked."""
    objective = MLM(rate=0.3, mask_share=1.0, random_share=0.0)
    batch = text(8, 32)
    first = pose(objective, batch)
    hidden = first["tokens"] == VOCAB.mask_id
    assert (hidden.sum(axis=1) == 10).all()
    other = np.where(hidden, text(8, 32, seed=1)["tokens"], batch["tokens"])
    assert (other != batch["tokens"]).sum() > 70
    assert (pose(objective, batch | {"tokens": other})["tokens"] == first["tokens"]).all()


def test_mistakes_are_explained():
    for wrong, message in [
        (dict(rate=0.0), "rate must be in"),
        (dict(final_rate=1.5), "final_rate must be in"),
        (dict(mask_share=0.95), "at most 1 together"),
        (dict(span_p=1.0), "span_p must be in"),
        (dict(span_max=0), "span_max must be at least 1"),
        (dict(static_masks=0), "static_masks must be at least 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            MLM(**wrong)
