"""What every metric keeps: its value from sums over examples is that of the library."""

import numpy as np
from hypothesis import strategies as st


def from_sums(metric, predictions, references, weights=None) -> float:
    """The value from statistics, of which each example's is taken `weights` times."""
    rows = metric.statistics(predictions, references)
    assert rows.shape[0] == len(references) and rows.ndim == 2 and rows.dtype == np.float64
    weights = np.ones(len(references)) if weights is None else np.asarray(weights, np.float64)
    both = metric.value(np.stack([weights @ rows, 3 * (weights @ rows)]))
    assert both.shape == (2,)  # vectorised; and a sample taken three times has the same value
    np.testing.assert_allclose(both[1], both[0], rtol=0, atol=1e-9)
    return both[0]


def repeated(rows, weights) -> list:
    return [row for row, times in zip(rows, weights) for _ in range(times)]


def samples(pairs, most: int = 12):
    """Strategy of (predictions, references, weights): a resample takes each example weights[i] times, some at least
    once."""
    rows = st.lists(st.tuples(pairs, st.integers(0, 3)), min_size=1, max_size=most).filter(
        lambda found: any(times for _, times in found)
    )
    return rows.map(
        lambda found: ([pair[0] for pair, _ in found], [pair[1] for pair, _ in found], [times for _, times in found])
    )
