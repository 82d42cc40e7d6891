"""What a metric of a task is."""

from collections.abc import Sequence
from typing import Any

import numpy as np


class Metric:
    """Of predictions and references, one of each an example. Higher is better; 1 is perfect.

    Its value is a library's (scikit-learn, seqeval, scipy). Beside it stands the same value as a function of sums over
    examples, which makes thousands of bootstrap resamples cheap: a resample is a weighted sum of the rows.
    """

    name: str

    def __call__(self, predictions: Sequence[Any], references: Sequence[Any]) -> float:
        """Over all examples, at least one. 0 where it is not defined (a constant's correlation)."""
        raise NotImplementedError

    def statistics(self, predictions: Sequence[Any], references: Sequence[Any]) -> np.ndarray:
        """f64[N, K]: what of each example is summed."""
        raise NotImplementedError

    def value(self, sums: np.ndarray) -> np.ndarray:
        """f64[..., K], (weighted) sums of statistics -> f64[...], the metric."""
        raise NotImplementedError
