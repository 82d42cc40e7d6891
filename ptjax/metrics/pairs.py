"""Minimal pairs: of two sentences, is the good one likelier? (Warstadt et al., 2020)

A prediction is [score of the good one, score of the bad one], a reference the pair's group.
"""

import numpy as np

from ptjax.metrics.base import Mean, Metric, check_paired, ratio


class PairAccuracy(Mean):
    """Share of the pairs whose good sentence has the higher score. Equal scores count half; NaN is wrong."""

    name = "accuracy"

    def scores(self, predictions, references):
        good, bad = np.asarray(predictions, np.float64).T
        return (good > bad) + 0.5 * (good == bad)


class GroupAccuracy(Metric):
    """Mean over groups of their pairs' accuracy."""

    name = "group_accuracy"

    def __call__(self, predictions, references):
        return float(self.value(self.statistics(predictions, references).sum(axis=0)))

    def statistics(self, predictions, references):
        check_paired(predictions, references)
        _, group, size = np.unique(np.asarray(references, object), return_inverse=True, return_counts=True)
        in_group = (group[:, None] == np.arange(len(size))).astype(np.float64)
        return np.concatenate([in_group * PairAccuracy().scores(predictions, references)[:, None], in_group], axis=1)

    def value(self, sums):
        """Over the groups that are there: a resample may lack one."""
        right, size = np.split(sums, 2, axis=-1)
        return ratio(ratio(right, size).sum(axis=-1), (size > 0).sum(axis=-1))
