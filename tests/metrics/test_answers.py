"""Exact match and F1 of answers, beside frozen numbers of the official script and its definition written out."""

import itertools
import json
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptjax.metrics import AnswerF1, ExactMatch
from tests.fixtures.make_squad_answers import PIECES
from tests.metrics.same import from_sums, repeated, samples

FROZEN = json.loads((Path(__file__).parents[1] / "fixtures" / "squad_answers.json").read_text())
METRICS = [ExactMatch(), AnswerF1()]


def test_equals_the_official_script():
    assert len(FROZEN) == 300
    exact, f1 = ([row[column] for row in FROZEN] for column in (2, 3))
    assert 60 < sum(exact) < 240 and sum(0 < value < 1 for value in f1) > 30
    for prediction, right, *known in FROZEN:
        assert [metric([prediction], [right]) for metric in METRICS] == pytest.approx(known, abs=1e-12), prediction
    predictions, references = [row[0] for row in FROZEN], [row[1] for row in FROZEN]
    for metric, known in zip(METRICS, (exact, f1)):
        assert metric(predictions, references) == pytest.approx(sum(known) / 300)
        assert from_sums(metric, predictions, references) == pytest.approx(sum(known) / 300)


def words_of(text: str) -> list[str]:
    """Lower case; no ASCII punctuation; then runs of letters, digits and _ that are articles become a space."""
    kept = "".join(c for c in text.lower() if c not in string.punctuation)
    runs = ("".join(run) for _, run in itertools.groupby(kept, str.isalnum))
    return "".join(" " if run in ("a", "an", "the") else run for run in runs).split()


def by_hand(prediction: str, right: list[str]) -> tuple[float, float]:
    found = words_of(prediction)
    best = (0.0, 0.0)
    for gold in [words for words in map(words_of, right) if words] or [[]]:
        left, same = list(gold), 0
        for word in found:
            if word in left:
                left.remove(word)
                same += 1
        if found and gold:
            precision, recall = same / len(found), same / len(gold)
            f1 = 2 * precision * recall / (precision + recall) if same else 0.0
        else:
            f1 = float(found == gold)
        best = max(best[0], float(found == gold)), max(best[1], f1)
    return best


answer = st.lists(st.sampled_from([*PIECES, " ", "\u2028"]), max_size=5).map("".join) | st.text(max_size=8)
question = st.lists(answer, max_size=3).flatmap(
    lambda right: st.tuples(st.sampled_from([*right, ""]) | answer, st.just(right))
)


@given(samples(question, most=5))
def test_equals_the_definition_written_out(sample):
    for weights in (None, sample[2]):
        predictions, references = (repeated(rows, weights) if weights else rows for rows in sample[:2])
        scores = [by_hand(prediction, right) for prediction, right in zip(predictions, references)]
        for metric, column in zip(METRICS, zip(*scores)):
            known = sum(column) / len(column)
            assert metric(predictions, references) == pytest.approx(known, abs=1e-12)
            assert from_sums(metric, *sample[:2], weights) == pytest.approx(known, abs=1e-12)


@pytest.mark.parametrize(
    "prediction, right, exact, f1",
    [
        ("The Cat!", ["cat"], 1, 1),
        ("the-cat", ["cat"], 0, 0),  # punctuation goes first: 'thecat'
        ("cat sat", ["dog", "the cat"], 0, 2 / 3),
        ("cat cat", ["cat"], 0, 2 / 3),
        ("", [], 1, 1),
        ("cat", [], 0, 0),
        ("", ["cat"], 0, 0),
        ("the", [], 1, 1),  # an article alone is no answer
        ("", ["the", "cat"], 0, 0),  # and no right one beside another
        ("", ["the"], 1, 1),
        ("“cat”", ["cat"], 0, 0),  # only ASCII punctuation goes
    ],
)
def test_known_values(prediction, right, exact, f1):
    assert ExactMatch()([prediction], [right]) == exact
    assert AnswerF1()([prediction], [right]) == pytest.approx(f1)
