"""How much better one arm is than another, and how sure that is: paired over examples, and over pre-training seeds.

Noise has two sources. Examples: a test set is a sample; a resample draws its N examples with replacement, the same ones
for all arms and seeds, so that arms are compared on equal examples (Koehn, 2004; Berg-Kirkpatrick et al., 2012). Seeds:
another pre-training would score otherwise. Two or three seeds, resampled, cannot say how far such runs spread, and
intervals come out much too narrow (see ptjax.bootstrap). So they are not: their mean has the standard error s / sqrt(S)
and Student's t with S - 1 degrees of freedom, which for normal noise is exact for any S. Where two arms have the same
seeds, s is that of the differences of each seed (paired); else both arms' spreads add, with Welch's (1947) degrees of
freedom. A seed is one draw for all tasks, so s is taken of its mean over them. Fine-tuning runs are nested in seeds:
a seed's value is their mean, and their noise is in s.

A spread over seeds holds already what examples do to each model by itself; resamples add only what they do to all seeds
of an arm alike. These are readers and cases of a multi-reader multi-case study, whose variance Obuchowski and Rockette
(1995) give as s^2 / S + C, with C the covariance, over resamples, of different seeds: resampled differences are scaled
from their own variance to C (at least 0). The reference distribution is the sum of such a resample and of t times
s / sqrt(S), the t integrated rather than drawn: Behrens and Fisher's, which errs to the careful side (Robinson, 1976).

In simulations (2 to 5 seeds, 1 or 4 tasks of 200 or 1,000 examples, seeds' noise from none to nearly all) 2 to 6 % of
equal arms come out different at 5 %; resampled seeds declare up to 35 %, one t with Satterthwaite's degrees of freedom
(Hillis, 2007) up to 13 %. Three seeds are few all the same: a difference of 4 standard errors is found in about half of
the comparisons, one of 8 in nearly all. Pairing costs half of the degrees of freedom and pays where seeds go together:
at a correlation of 0.8 those 4 are found in 98 % (84 % unpaired), at one of 0 in 56 % (74 %).

With one seed the noise of seeds is not known, and the interval is over examples alone: it says which of two models is
better, not which recipe.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import optimize, special

from ptjax import bootstrap
from ptjax.bootstrap import Interval
from ptjax.metrics import Metric


@dataclass(frozen=True)
class Difference(bootstrap.Difference):
    """Of an arm to another.

    paired: both have the same seeds, and each seed's difference was taken. seeds: how many each arm has.
    """

    paired: bool
    seeds: tuple[int, int]

    @property
    def seeds_known(self) -> bool:
        """Whether both arms' noise of seeds is in the interval."""
        return min(self.seeds) > 1


@dataclass(frozen=True)
class TaskRuns:
    """What all arms have predicted on a task, as sums are taken of it.

    statistics: arm -> f64[S, F, N, K], the metric's, for S pre-training seeds, F fine-tunings each, over the same N
      examples in the same order.
    seeds: arm -> the S pre-training seeds.
    """

    task: str
    metric: Metric
    statistics: Mapping[str, np.ndarray]
    seeds: Mapping[str, tuple[int, ...]]

    def __post_init__(self):
        if not self.statistics:
            raise ValueError(f"task {self.task}: there are no arms")
        every = self.statistics.values()
        if any(rows.ndim != 4 or not rows.size for rows in every) or len({rows.shape[2:] for rows in every}) > 1:
            shapes = ", ".join(f"{arm} {rows.shape}" for arm, rows in self.statistics.items())
            raise ValueError(
                f"task {self.task}: statistics are [seeds, tunings, examples, K] of the same examples, not {shapes}"
            )
        for arm, rows in self.statistics.items():
            seeds = self.seeds.get(arm, ())
            if len(seeds) != len(rows) or len(set(seeds)) < len(seeds):
                raise ValueError(f"task {self.task}: runs of {len(rows)} seeds of arm {arm}, which are named {seeds}")
            if not np.isfinite(rows).all():
                raise ValueError(f"task {self.task}: arm {arm} has statistics that are not finite")

    @classmethod
    def of(
        cls,
        task: str,
        metric: Metric,
        predictions: Mapping[str, Sequence[Sequence[Sequence[Any]]]],
        references: Sequence[Any],
        seeds: Mapping[str, Sequence[int]],
    ) -> "TaskRuns":
        """predictions: arm -> of each seed, of each fine-tuning, a prediction for each reference."""
        statistics = {}
        for arm, runs in predictions.items():
            if len(counts := {len(tunings) for tunings in runs}) != 1:
                raise ValueError(
                    f"task {task}: seeds of arm {arm} have {sorted(counts)} fine-tunings; each has to have as many"
                )
            rows = [np.stack([metric.statistics(tuning, references) for tuning in tunings]) for tunings in runs]
            statistics[arm] = np.stack(rows)
        return cls(task, metric, statistics, {arm: tuple(seeds.get(arm, ())) for arm in predictions})

    def values(self, arm: str) -> np.ndarray:
        """f64[S]: of each seed the mean over fine-tunings of the metric."""
        return self.metric.value(self.statistics[arm].sum(axis=2)).mean(axis=1)

    def moved(self, count: int, seed: int) -> dict[str, np.ndarray]:
        """arm -> f64[S, count]: how far `values` lie off on other examples, NaN where there is but one to draw from."""
        size = next(iter(self.statistics.values())).shape[2]
        found = {arm: np.empty((len(rows), count)) for arm, rows in self.statistics.items()}
        start = 0
        for weights in bootstrap.blocks(size, count, bootstrap.generator(seed, "examples", self.task)):
            stop = start + len(weights)
            for arm, rows in self.statistics.items():
                for run, rows_FNK in enumerate(rows):
                    found[arm][run, start:stop] = self.metric.value(weights @ rows_FNK).mean(axis=0)
            start = stop
        # N drawn of N vary by (N - 1) / N of what N new ones would.
        wider = np.sqrt(size / (size - 1)) if size > 1 else np.nan
        return {arm: wider * (drawn - self.values(arm)[:, None]) for arm, drawn in found.items()}


class Differences:
    """Scores of arms and their differences. An arm's score is the mean over tasks of its mean over seeds.

    Only seeds that have all the tasks count in an arm's score. An arm that lacks a task has none: KeyError.
    Bounds are infinite where nothing is known of them: a task of one example, too few resamples for the confidence.

    Args:
      tasks: of each task the arms there are.
      count: resamples.
    """

    def __init__(self, tasks: Sequence[TaskRuns], count: int = 1000, seed: int = 0):
        if not tasks or len({task.task for task in tasks}) < len(tasks):
            raise ValueError("the tasks of a comparison: at least one, and each but once")
        if count < 1:
            raise ValueError(f"a bootstrap needs at least 1 resample, not {count}")
        self.tasks, self.count, self.seed = {task.task: task for task in tasks}, count, seed

    def task(self, task: str, arm: str, confidence: float = 0.95) -> Interval:
        """Of an arm on one task."""
        return self._arm([task], arm).interval(confidence)

    def score(self, arm: str, confidence: float = 0.95) -> Interval:
        """Of an arm on all tasks."""
        return self._arm([*self.tasks], arm).interval(confidence)

    def task_difference(self, task: str, a: str, b: str, confidence: float = 0.95) -> Difference:
        """a's less b's on one task."""
        return self._arm([task], a).less(self._arm([task], b), confidence)

    def difference(self, a: str, b: str, confidence: float = 0.95) -> Difference:
        """a's score less b's."""
        return self._arm([*self.tasks], a).less(self._arm([*self.tasks], b), confidence)

    def task_seeds(self, task: str, arm: str) -> list[float]:
        """Of each seed, in their order, the mean over fine-tunings."""
        return self._arm([task], arm).values.tolist()

    def seeds(self, arm: str) -> list[float]:
        """Of each seed that has all tasks, in their order, the mean over tasks and fine-tunings."""
        return self._arm([*self.tasks], arm).values.tolist()

    def _arm(self, tasks: Sequence[str], arm: str) -> "_Seeds":
        rows = [self.tasks[task].seeds[arm] for task in tasks]
        seeds = [seed for seed in rows[0] if all(seed in row for row in rows)]
        if not seeds:
            raise KeyError(f"arm {arm} has no seed that has all the tasks")
        places = [[row.index(seed) for seed in seeds] for row in rows]
        values = np.mean([self.tasks[task].values(arm)[at] for task, at in zip(tasks, places)], axis=0)
        moved = np.mean([self._moved[task][arm][at] for task, at in zip(tasks, places)], axis=0)
        return _Seeds(seeds, values, moved)

    @cached_property
    def _moved(self) -> dict[str, dict[str, np.ndarray]]:
        return {name: task.moved(self.count, self.seed) for name, task in self.tasks.items()}


def mean_of_seeds(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """The t interval of something that is measured once a seed, as bits a byte. Infinite bounds for one seed."""
    with np.errstate(invalid="ignore"):  # infinite losses
        scale, freedom = _noise(np.asarray(values, np.float64))
        return _interval(float(np.mean(values)), scale, freedom, confidence)[0]


def seed_difference(a: Mapping[int, float], b: Mapping[int, float], confidence: float = 0.95) -> Difference:
    """a's mean less b's of what is measured once a seed: seed -> value. Paired where both have the same seeds, else
    Welch's. With one seed each, or values that are not finite, the bounds are infinite and p is 1."""
    paired = a.keys() == b.keys()
    ours, theirs = (np.array([values[seed] for seed in sorted(values)], np.float64) for values in (a, b))
    with np.errstate(invalid="ignore"):  # infinite losses
        scale, freedom = _noise(ours - theirs) if paired else _noise(ours, theirs)
        interval, p = _interval(round(float(ours.mean() - theirs.mean()), 12), scale, freedom, confidence)
    return Difference(interval.mean, interval.low, interval.high, p, paired, (len(a), len(b)))


def holm(ps: Sequence[float]) -> list[float]:
    """p-values of several tests, in their order, adjusted so that any false alarm among them is as rare as one test's
    would be (Holm, 1979, A simple sequentially rejective multiple test procedure)."""
    if not all(0 <= p <= 1 for p in ps):
        raise ValueError(f"p-values are in [0, 1], not {list(ps)}")
    order = np.argsort(ps)
    adjusted = np.minimum(1, np.maximum.accumulate(np.asarray(ps)[order] * np.arange(len(ps), 0, -1)))
    found = np.empty(len(ps))
    found[order] = adjusted
    return found.tolist()


@dataclass(frozen=True)
class _Seeds:
    """values: f64[S]. moved: f64[S, R], how far they lie off on drawn examples."""

    seeds: list[int]
    values: np.ndarray
    moved: np.ndarray

    @property
    def alone(self) -> float:
        """Variance of the mean that examples cause in each seed by itself, and that so is in the seeds' spread."""
        return float(self.moved.var(axis=0, ddof=1).mean()) / len(self.seeds) if len(self.seeds) > 1 else 0.0

    def interval(self, confidence: float) -> Interval:
        draws = self.values.mean() + _common(self.moved.mean(axis=0), self.alone)
        low, high, _ = _bounds(draws, *_noise(self.values), confidence)
        return Interval(float(self.values.mean()), low, high)

    def less(self, other: "_Seeds", confidence: float) -> Difference:
        paired = set(self.seeds) == set(other.seeds)
        if paired:
            at = [other.seeds.index(seed) for seed in self.seeds]
            each = _Seeds(self.seeds, self.values - other.values[at], self.moved - other.moved[at])
            (scale, freedom), alone = _noise(each.values), each.alone
        else:
            (scale, freedom), alone = _noise(self.values, other.values), self.alone + other.alone
        # Rounded, since sums of the same numbers in another order differ in the last bits, and equals are to tie.
        mean = round(float(self.values.mean() - other.values.mean()), 12)
        draws = mean + _common(self.moved.mean(axis=0) - other.moved.mean(axis=0), alone)
        low, high, p = _bounds(np.round(draws, 12), scale, freedom, confidence)
        return Difference(mean, low, high, p, paired, (len(self.seeds), len(other.seeds)))


def _common(moved_R: np.ndarray, alone: float) -> np.ndarray:
    """Scaled to the part of their variance that is not `alone`."""
    variance = moved_R.var()
    return moved_R * np.sqrt(max(variance - alone, 0) / variance) if variance > 0 else moved_R


def _noise(*groups: np.ndarray) -> tuple[float, float]:
    """Standard error that seeds cause in the (difference of) means of independent groups of them, and its degrees of
    freedom. A group of one seed is taken to spread as the other does; with none to go by, NaN."""
    sizes = np.array([len(group) for group in groups])
    if not sizes.all():
        raise ValueError("there are no seeds to take the mean of")
    variances = [group.var(ddof=1) for group in groups if len(group) > 1]
    if not variances:
        return np.nan, 0.0
    if len(variances) < len(groups):
        return _rounded(np.sqrt(variances[0] * (1 / sizes).sum())), float(sizes.max() - 1)
    parts = np.array(variances) / sizes
    scale = _rounded(np.sqrt(parts.sum()))
    return scale, float(parts.sum() ** 2 / (parts**2 / (sizes - 1)).sum()) if scale > 0 else np.inf


def _rounded(scale: float) -> float:
    return round(float(scale), 12)


def _interval(mean: float, scale: float, freedom: float, confidence: float) -> tuple[Interval, float]:
    """A t interval, and the p of 0."""
    bootstrap.check_confidence(confidence)
    if not np.isfinite([mean, scale]).all():
        return Interval(mean, -np.inf, np.inf), 1.0
    if scale == 0:
        return Interval(mean, mean, mean), float(mean == 0)
    reach = scale * float(special.stdtrit(freedom, (1 + confidence) / 2))
    return Interval(mean, mean - reach, mean + reach), 2 * float(special.stdtr(freedom, -abs(mean) / scale))


def _bounds(draws_R: np.ndarray, scale: float, freedom: float, confidence: float) -> tuple[float, float, float]:
    """low, high and p of a draw plus scale times t. With a scale of 0 or NaN, of a draw alone."""
    bootstrap.check_confidence(confidence)
    count = len(draws_R)
    outside = (1 - confidence) * (count + 1) / 2 - 1  # draws on a side that a p of 1 - confidence allows
    if np.isnan(draws_R).any():
        return -np.inf, np.inf, 1.0
    if not scale > 0:
        p = bootstrap.p_value(min(np.count_nonzero(draws_R <= 0), np.count_nonzero(draws_R >= 0)), count)
        return (*bootstrap.percentiles(draws_R, confidence), float(p)) if outside > 0 else (-np.inf, np.inf, float(p))

    def below(x: float) -> float:
        return float(special.stdtr(freedom, (x - draws_R) / scale).sum())

    def where(draws: float) -> float:
        reach = scale * float(special.stdtrit(freedom, draws / count))
        between = draws_R.min() + reach - scale, draws_R.max() + reach + scale
        return float(optimize.brentq(lambda x: below(x) - draws, *between))

    p = float(bootstrap.p_value(min(below(0), count - below(0)), count))
    return (where(outside), where(count - outside), p) if outside > 0 else (-np.inf, np.inf, p)
