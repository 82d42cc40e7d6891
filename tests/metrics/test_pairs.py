"""Minimal pairs: ties, groups, and what is not a number."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptjax.metrics import GroupAccuracy, PairAccuracy
from tests.metrics.same import from_sums, repeated, samples

score = st.sampled_from([-3.0, -1.0, 0.0, -math.inf]) | st.floats(-100, 0)


def scored(pair) -> float:
    return 1.0 if pair[0] > pair[1] else 0.5 if pair[0] == pair[1] else 0.0


@given(samples(st.tuples(st.lists(score, min_size=2, max_size=2), st.sampled_from(["agreement", "binding", ""]))))
def test_equals_counting_by_hand(sample):
    for weights in (None, sample[2]):
        predictions, groups = (repeated(rows, weights) if weights else rows for rows in sample[:2])
        every = sum(map(scored, predictions)) / len(predictions)
        assert PairAccuracy()(predictions, groups) == pytest.approx(every)
        assert from_sums(PairAccuracy(), *sample[:2], weights) == pytest.approx(every)
        means = []
        for group in set(groups):
            members = [scored(pair) for pair, name in zip(predictions, groups) if name == group]
            means.append(sum(members) / len(members))
        assert GroupAccuracy()(predictions, groups) == pytest.approx(sum(means) / len(means))
        assert from_sums(GroupAccuracy(), *sample[:2], weights) == pytest.approx(sum(means) / len(means))


def test_identical_scores_do_not_win_and_nan_is_wrong():
    assert PairAccuracy()([[-2.0, -2.0]] * 3, ["a"] * 3) == 0.5
    assert PairAccuracy()([[-math.inf, -math.inf]], ["a"]) == 0.5
    assert PairAccuracy()([[math.nan, -1.0], [-1.0, math.nan], [math.nan] * 2], ["a"] * 3) == 0
    assert GroupAccuracy()([[0, -1], [0, -1], [0, -1], [-1, 0]], ["a", "a", "a", "b"]) == 0.5
