"""Correlation of numbers with numbers, as scipy measures it."""

import warnings
from collections.abc import Sequence

import numpy as np

from ptjax.logging import require
from ptjax.metrics.base import Metric, check_paired, ratio


class Pearson(Metric):
    """Linear correlation; 0 where either side is constant."""

    name = "pearson"

    def __call__(self, predictions, references):
        x, y = _numbers(predictions, references)
        if len(x) < 2:
            return 0.0
        stats = require("scipy.stats", "tasks")
        with warnings.catch_warnings():  # scipy says with a warning, and NaN, that one of them is constant
            warnings.simplefilter("ignore", stats.ConstantInputWarning)
            found = self._scipy(stats)(x, y).statistic
        return 0.0 if np.isnan(found) else float(found)

    def _scipy(self, stats):
        return stats.pearsonr

    def statistics(self, predictions, references):
        x, y = map(_standard, _numbers(predictions, references))
        return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)

    def value(self, sums):
        n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
        n = np.maximum(n, 1)
        spread_x, spread_y = _spread(n, x, xx), _spread(n, y, yy)
        return np.clip(ratio(xy / n - (x / n) * (y / n), np.sqrt(spread_x) * np.sqrt(spread_y)), -1, 1)


class Spearman(Pearson):
    """Correlation of ranks, equal numbers sharing the mean of theirs; 0 where either side is constant.

    Its statistics keep the ranks that examples have among all of them. So `value` is exact for the whole, and for a
    resample, where each would be ranked anew, an approximation.
    """

    name = "spearman"

    def _scipy(self, stats):
        return stats.spearmanr

    def statistics(self, predictions, references):
        return super().statistics(*map(_ranks, _numbers(predictions, references)))


def _numbers(predictions: Sequence[float], references: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """f64[N] each. Raises ValueError for NaN and infinities."""
    check_paired(predictions, references)
    found = np.asarray(predictions, np.float64), np.asarray(references, np.float64)
    for name, numbers in zip(("prediction", "reference"), found):
        if not np.isfinite(numbers).all():
            place = int(np.argmin(np.isfinite(numbers)))
            raise ValueError(f"{name} {place} is {numbers[place]}: a correlation is one of finite numbers")
    return found


def _ranks(x: np.ndarray) -> np.ndarray:
    """f64[N]: mean ranks, from 1."""
    _, group, size = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(size) - (size - 1) / 2)[group]


def _standard(x: np.ndarray) -> np.ndarray:
    """Moved to mean 0 and scaled to at most 1, which changes no correlation and keeps sums of squares exact enough."""
    x = x / (np.abs(x).max() or 1.0)
    x = x - (x[0] if (x == x[0]).all() else x.mean())
    return x / (np.abs(x).max() or 1.0)


def _spread(n: np.ndarray, x: np.ndarray, xx: np.ndarray) -> np.ndarray:
    """Variance from sums, and 0 where it is no more than rounding: a resample of equal numbers."""
    variance = xx / n - (x / n) ** 2
    return np.where(variance > 1e-13 * (xx / n), variance, 0.0)
