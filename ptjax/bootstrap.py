"""How sure a score is: bootstrap intervals over examples and seeds, and paired differences of submissions.

A resample draws N of a task's N examples with replacement (Efron and Tibshirani, 1993), the same ones for every
submission, so that two are compared on equal examples (Koehn, 2004; Berg-Kirkpatrick et al., 2012), and of each
submission's S runs on the task S - 1 with replacement (Bouthillier et al., 2021, on why seeds are part of the noise;
Rao and Wu, 1988, on S - 1, with which the variance of a mean is unbiased: S runs would give (S - 1)/S of it, much less
for the two or three there are). With one run its seed's noise is not known, and the interval is one over examples.
Few runs cannot say how far such runs spread: where that is most of the noise, 95% intervals cover the truth in about
70, 80 and 90% of the cases for 2, 3 and 5 runs; where examples are, in 95%. Where runs differ by chance on each example
rather than as wholes, intervals are wider than they need be (Owen, 2007).
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ptjax.metrics import Metric

BLOCK = 2**19  # weights that are held at once


@dataclass(frozen=True)
class Interval:
    """A score, and where the percentiles of its resamples lie."""

    mean: float
    low: float
    high: float

    @property
    def figures(self) -> dict[str, float]:
        """As reports keep them, {'mean', 'low', 'high'}."""
        return {"mean": self.mean, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Difference(Interval):
    """Of a score to another's. p: two-sided, that it is 0; never below 2 / (resamples + 1), and
    below 1 - confidence just where 0 is outside the interval."""

    p: float

    @property
    def tie(self) -> bool:
        return self.low <= 0 <= self.high


@dataclass(frozen=True)
class TaskScores:
    """What all submissions to a task have predicted, as sums are taken of it.

    statistics: submission -> f64[S, N, K], the metric's for S runs over the same N examples in the same order.
    """

    task: str
    metric: Metric
    statistics: Mapping[str, np.ndarray]

    def __post_init__(self):
        if not self.statistics:
            raise ValueError(f"task {self.task}: there are no submissions")
        every = self.statistics.values()
        if any(rows.ndim != 3 or not rows.size for rows in every) or len({rows.shape[1:] for rows in every}) > 1:
            shapes = ", ".join(f"{name} {rows.shape}" for name, rows in self.statistics.items())
            raise ValueError(f"task {self.task}: statistics are [runs, examples, K] of the same examples, not {shapes}")

    @classmethod
    def of(
        cls, task: str, metric: Metric, predictions: Mapping[str, Sequence[Sequence[Any]]], references: Sequence[Any]
    ) -> "TaskScores":
        """predictions: submission -> of each run a prediction for each reference."""
        statistics = {
            name: np.stack([metric.statistics(run, references) for run in runs]) for name, runs in predictions.items()
        }
        return cls(task, metric, statistics)

    def runs(self, submission: str) -> np.ndarray:
        """f64[S]: the metric of each run."""
        return self.metric.value(self.statistics[submission].sum(axis=1))

    def resampled(self, count: int, seed: int) -> dict[str, np.ndarray]:
        """submission -> f64[count]: its mean over drawn runs of the metric on drawn examples. The draws depend on the
        seed, the task and, for runs, the submission, not on who else takes part."""
        size = next(iter(self.statistics.values())).shape[1]
        values = {name: np.empty((len(rows), count)) for name, rows in self.statistics.items()}
        start = 0
        for weights in blocks(size, count, generator(seed, "examples", self.task)):
            stop = start + len(weights)
            for name, rows in self.statistics.items():
                for run, rows_NK in enumerate(rows):
                    values[name][run, start:stop] = self.metric.value(weights @ rows_NK)
            start = stop
        return {
            name: np.mean(_drawn(values_SR, generator(seed, "runs", self.task, name)), axis=0)
            for name, values_SR in values.items()
        }


class Bootstrap:
    """Resampled scores of submissions on tasks. A submission's score is the mean over tasks of its mean over runs.

    Args:
      tasks: of each task the submissions there are; one that lacks a task has no score.
      count: resamples.
    """

    def __init__(self, tasks: Sequence[TaskScores], count: int = 1000, seed: int = 0):
        if not tasks or len({task.task for task in tasks}) < len(tasks):
            raise ValueError("the tasks of a bootstrap: at least one, and each but once")
        if count < 1:
            raise ValueError(f"a bootstrap needs at least 1 resample, not {count}")
        self.tasks, self.count, self.seed = {task.task: task for task in tasks}, count, seed

    def task(self, task: str, submission: str, confidence: float = 0.95) -> Interval:
        """Of a submission on one task."""
        value = float(self.tasks[task].runs(submission).mean())
        return Interval(value, *percentiles(self._resampled[task][submission], confidence))

    def score(self, submission: str, confidence: float = 0.95) -> Interval:
        """Of a submission on all tasks. KeyError where it lacks one."""
        return Interval(self._point(submission), *percentiles(self._average(submission), confidence))

    def difference(self, submission: str, other: str, confidence: float = 0.95) -> Difference:
        """submission's score less other's, on the same drawn examples. KeyError where one of them lacks a task."""
        # Rounded, since sums of the same numbers in another order differ in the last bits, and equals are to tie.
        found = np.round(self._average(submission) - self._average(other), 12)
        value = round(self._point(submission) - self._point(other), 12)
        rarer = min(np.count_nonzero(found <= 0), np.count_nonzero(found >= 0))
        low, high = percentiles(found, confidence)
        p = float(p_value(rarer, self.count))
        if p >= 1 - confidence:  # of few resamples none is rare enough
            low, high = min(low, 0.0), max(high, 0.0)
        return Difference(value, low, high, p)

    def _point(self, submission: str) -> float:
        return float(np.mean([task.runs(submission).mean() for task in self.tasks.values()]))

    def _average(self, submission: str) -> np.ndarray:
        return np.mean([values[submission] for values in self._resampled.values()], axis=0)

    @cached_property
    def _resampled(self) -> dict[str, dict[str, np.ndarray]]:
        return {name: task.resampled(self.count, self.seed) for name, task in self.tasks.items()}


def resamples(n: int, count: int, seed: int) -> np.ndarray:
    """i64[count, n]: how often each of n examples is among n drawn with replacement, multinomial counts."""
    return np.concatenate([*blocks(n, count, np.random.default_rng(seed))]).astype(np.int64)


def blocks(n: int, count: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """f64[at most BLOCK / n or 1, n], together `count` rows of how often each of n examples is drawn."""
    rows = max(1, BLOCK // n)
    for start in range(0, count, rows):
        size = min(rows, count - start)
        drawn = rng.integers(n, size=(size, n), dtype=np.int32)
        drawn += np.arange(size, dtype=np.int32)[:, None] * n
        yield np.bincount(drawn.reshape(-1), minlength=size * n).reshape(size, n).astype(np.float64)


def _drawn(values_SR: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[max(1, S - 1), R]: in each resample other runs."""
    runs, count = values_SR.shape
    return np.take_along_axis(values_SR, rng.integers(runs, size=(max(1, runs - 1), count)), axis=0)


def percentiles(values: np.ndarray, confidence: float) -> tuple[float, float]:
    """Between which all but 1 - confidence of the resamples lie."""
    check_confidence(confidence)
    values = np.sort(values)
    # As many lie outside on each side as a p-value below 1 - confidence allows: the two never disagree on 0.
    outside = np.count_nonzero(p_value(np.arange(len(values)), len(values)) < 1 - confidence)
    place = max(outside - 1, 0)
    return float(values[place]), float(values[-1 - place])


def check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is a share in (0, 1), not {confidence}")


def p_value(rarer: float | np.ndarray, count: int) -> float | np.ndarray:
    """Two-sided, of a difference that so many of `count` resamples have at 0 or on the rarer side of it."""
    return np.minimum(1, 2 * (rarer + 1) / (count + 1))


def generator(seed: int, *names: str) -> np.random.Generator:
    """One of its own for each seed and names."""
    digest = hashlib.blake2b(repr(names).encode(), digest_size=8).digest()
    return np.random.default_rng([seed, int.from_bytes(digest, "big")])
