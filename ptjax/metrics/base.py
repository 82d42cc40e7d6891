"""What a metric of a task is."""

from collections.abc import Sequence
from typing import Any

import numpy as np


class Metric:
    """Of predictions and references, one of each an example. Higher is better; 1 is perfect.

    Its value is a library's (scikit-learn, seqeval, scipy). Beside it stands the same value as a function of sums over
    examples, which makes thousands of bootstrap resamples cheap: a resample is a weighted sum of the rows. How many
    statistics there are depends on the references alone, so that those of several seeds and submissions stack.
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


class Mean(Metric):
    """Base of those that are a mean: a subclass gives `scores`, and `__call__` where a library has it."""

    def scores(self, predictions: Sequence[Any], references: Sequence[Any]) -> np.ndarray:
        """f64[N], in [0, 1]: what each example scores."""
        raise NotImplementedError

    def __call__(self, predictions, references):
        check_paired(predictions, references)
        return float(np.mean(self.scores(predictions, references)))

    def statistics(self, predictions, references):
        check_paired(predictions, references)
        scores = np.asarray(self.scores(predictions, references), np.float64)
        return np.stack([scores, np.ones_like(scores)], axis=1)

    def value(self, sums):
        return ratio(sums[..., 0], sums[..., 1])


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, and 0 where below is 0."""
    return np.divide(above, below, out=np.zeros(np.broadcast(above, below).shape), where=below != 0)


def check_paired(predictions: Sequence[Any], references: Sequence[Any]) -> None:
    """Raises ValueError unless there is one prediction a reference, and one at least."""
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references: one for each")
    if not len(references):
        raise ValueError("a metric needs at least one example")
