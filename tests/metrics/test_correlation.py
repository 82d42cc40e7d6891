"""Pearson and Spearman, beside scipy's."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr

from ptjax.metrics import Pearson, Spearman
from tests.metrics.same import from_sums, repeated, samples

LIBRARY = {"pearson": pearsonr, "spearman": spearmanr}
METRICS = [Pearson(), Spearman()]
# Few values, for ties and constants; and any float32: of doubles a hair apart scipy itself gets rounding.
number = st.sampled_from([0.0, 1.0, 2.5, -1.0, 0.1]) | st.floats(-(2.0**100), 2.0**100, width=32)


def by_scipy(name, predictions, references) -> float:
    if len(set(predictions)) < 2 or len(set(references)) < 2:
        return 0.0  # not defined
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return LIBRARY[name](predictions, references).statistic


@pytest.mark.filterwarnings("ignore:An input array is nearly constant")
@given(samples(st.tuples(number, number)))
def test_equals_scipy(sample):
    predictions, references, _ = sample
    for metric in METRICS:
        known = by_scipy(metric.name, predictions, references)
        assert metric(predictions, references) == pytest.approx(known, abs=1e-9)
        assert from_sums(metric, predictions, references) == pytest.approx(known, abs=1e-6)


@given(samples(st.tuples(st.integers(-8, 8), st.integers(-8, 8))))
def test_pearson_of_a_resample_equals_scipys(sample):
    predictions, references, weights = sample
    known = by_scipy("pearson", repeated(predictions, weights), repeated(references, weights))
    assert from_sums(Pearson(), predictions, references, weights) == pytest.approx(known, abs=1e-9)


def test_spearman_of_a_resample_is_near_scipys():
    rng = np.random.default_rng(0)
    x = rng.normal(size=400)
    y = np.round(x + rng.normal(size=400), 1)
    for _ in range(20):
        weights = rng.multinomial(400, np.full(400, 1 / 400))
        known = by_scipy("spearman", repeated(x, weights), repeated(y, weights))
        assert from_sums(Spearman(), x, y, weights) == pytest.approx(known, abs=0.01)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_far_from_zero_and_large_and_small_numbers_lose_nothing(metric):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 50))
    known = by_scipy(metric.name, x, y)
    for far_x, far_y in ((x + 1e6, y - 1e6), (x * 1e300, y * 1e-300)):
        assert metric(far_x, far_y) == pytest.approx(known, abs=1e-8)
        assert from_sums(metric, far_x, far_y) == pytest.approx(known, abs=1e-8)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_one_example_or_a_constant_has_no_correlation(metric):
    for predictions, references in (([3.0], [4.0]), ([0.1] * 7, list(range(7))), (list(range(7)), [1e9] * 7)):
        assert metric(predictions, references) == 0
        assert from_sums(metric, predictions, references) == 0
    rows = metric.statistics([0.1, 0.1, 0.7, 5.0], [1, 2, 3, 4])
    assert metric.value(np.array([5.0, 2.0, 0.0, 0.0]) @ rows) == 0  # a resample that is constant


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_refuses_what_is_not_finite(metric, bad):
    for used in (metric, metric.statistics):
        with pytest.raises(ValueError, match="prediction 1 is .*finite"):
            used([1.0, bad, 2.0], [1.0, 2.0, 3.0])
        with pytest.raises(ValueError, match="reference 2 is .*finite"):
            used([1.0, 2.0, 3.0], [1.0, 2.0, bad])
