"""Scaling: planted laws come back, and no more is claimed of them than the sizes say."""

import numpy as np
import pytest
from scipy import stats

from ptjax.compare.scaling import fit


def test_a_power_law_comes_back():
    flops = np.array([1e9, 4e9, 1e10, 1e11])
    found = fit(flops, 30 * flops**-0.08, "loss")
    assert (found.slope, found.low, found.high) == pytest.approx((-0.08, -0.08, -0.08))
    assert found.p < 1e-6 and found.r2 == pytest.approx(1) and found.sizes == 4
    assert found.form == "loss = a FLOPs^b"
    for at, mid, low, high in found.band:
        assert (mid, low, high) == pytest.approx((30 * at**-0.08,) * 3)


def test_a_score_is_linear_in_the_logarithm():
    rng = np.random.default_rng(0)
    flops = np.array([1e12, 1e9, 1e10, 1e11, 3e9])
    scores = 0.1 + 0.05 * np.log10(flops) + 0.01 * rng.normal(size=5)
    found, library = fit(flops, scores, "score", 0.9), stats.linregress(np.log10(flops), scores)
    reach = stats.t.ppf(0.95, 3) * library.stderr
    assert (found.slope, found.low, found.high) == pytest.approx(
        (library.slope, library.slope - reach, library.slope + reach)
    )
    assert (found.p, found.r2) == pytest.approx((library.pvalue, library.rvalue**2))
    at, mid, low, high = np.array(found.band).T
    assert at[0] == pytest.approx(1e9) and at[-1] == pytest.approx(1e12) and (np.diff(at) > 0).all()  # and no farther
    np.testing.assert_allclose(mid, library.intercept + library.slope * np.log10(at))
    middle = np.argmin(high - low)
    assert at[middle] == pytest.approx(10 ** np.log10(flops).mean(), rel=0.3)  # where most is known


def test_intervals_cover_the_truth():
    """Of 300 trials of 4 sizes, 95 % intervals of the slope and of the line where it begins."""
    rng = np.random.default_rng(0)
    flops = np.repeat([1e9, 1e10, 3e10, 1e12], 3)
    slope, begin = 0, 0
    for _ in range(300):
        # Sizes differ by more than their runs do: no law is exact.
        scores = 0.05 * np.log10(flops) + np.repeat(0.01 * rng.normal(size=4), 3) + 0.01 * rng.normal(size=12)
        found = fit(flops, scores, "score")
        slope += found.low <= 0.05 <= found.high
        begin += found.band[0][2] <= 0.45 <= found.band[0][3]
    assert 0.91 <= slope / 300 <= 0.98 and 0.91 <= begin / 300 <= 0.98


def test_more_runs_of_the_same_sizes_are_no_more_sizes():
    flops, losses = [1e9, 1e10, 1e11, 1e12], [5.0, 4.1, 3.6, 3.2]
    once, thrice = fit(flops, losses, "loss"), fit(flops * 3, losses * 3, "loss")
    assert (thrice.slope, thrice.low, thrice.high, thrice.p) == pytest.approx((once.slope, once.low, once.high, once.p))
    nearly = fit([*flops, 1.0001e9], [*losses, 5.0], "loss")
    assert nearly.sizes == 4 and nearly.low == pytest.approx(once.low, rel=1e-3)


@pytest.mark.parametrize(
    "flops, values",
    [
        ([], []),
        ([1e9], [0.5]),
        ([1e9, 1e9, 1e9, 1e10], [0.5, 0.6, 0.4, 0.7]),
        ([0, 1e9, 1e10], [0.5, 0.6, 0.7]),
        ([1e8, 1e9, 1e10], [0.5, np.nan, 0.7]),
        ([1e8, 1e9, np.inf, np.nan], [0.5, 0.6, 0.7, 0.8]),
    ],
)
def test_fewer_than_three_sizes_are_no_line(flops, values):
    assert fit(flops, values, "score") is None


def test_what_has_no_logarithm_is_left_out():
    whole = fit([1e8, 1e9, 1e10], [4.0, 3.0, 2.5], "loss")
    assert fit([1e8, 0, 1e9, 1e9, 1e10, 1e11], [4.0, 9.0, 3.0, np.nan, 2.5, 0.0], "loss") == whole
    assert fit([1e8, 1e9, 1e10], [0.0, -0.1, 0.1], "score") is not None


def test_a_flat_line_has_no_slope():
    found = fit([1e8, 1e9, 1e10], [0.5, 0.5, 0.5], "score")
    assert (found.slope, found.low, found.high, found.p) == (0, 0, 0, 1) and np.isnan(found.r2)


def test_mistakes():
    with pytest.raises(ValueError, match="one of each"):
        fit([1e9, 1e10], [0.5], "score")
    with pytest.raises(ValueError, match="loss"):
        fit([1e9], [0.5], "perplexity")
    with pytest.raises(ValueError, match="confidence"):
        fit([1e9], [0.5], "score", 95)
