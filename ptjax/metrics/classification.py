"""One label of a fixed set for each example, as scikit-learn measures it."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from ptjax.logging import require
from ptjax.metrics.base import Mean, Metric, check_paired, ratio


class Accuracy(Mean):
    """Share of the examples whose label is right."""

    name = "accuracy"

    def __call__(self, predictions, references):
        predicted, gold, _ = _codes(predictions, references, ())
        return float(_sklearn().accuracy_score(gold, predicted))

    def scores(self, predictions, references):
        predicted, gold, _ = _codes(predictions, references, ())
        return (predicted == gold).astype(np.float64)


@dataclass(frozen=True)
class MacroF1(Metric):
    """Mean over labels of the F1 score of each; a label that is nowhere predicted and nowhere right does not count.

    labels: those that there are, beside those of the references. It is scikit-learn's `f1_score(average="macro")` where
      they hold every label that is predicted. A prediction outside them is wrong, and no label of its own, where
      scikit-learn's mean has one more.
    """

    labels: tuple[Hashable, ...] = ()
    name = "macro_f1"

    def __call__(self, predictions, references):
        predicted, gold, size = _codes(predictions, references, self.labels)
        seen = [label for label in np.union1d(predicted, gold) if label < size]
        return float(_sklearn().f1_score(gold, predicted, labels=seen, average="macro", zero_division=0))

    def statistics(self, predictions, references):
        predicted, gold, size = _codes(predictions, references, self.labels)
        predicted_NC, gold_NC = _one_hot(predicted, size), _one_hot(gold, size)
        return np.concatenate([predicted_NC * gold_NC, predicted_NC, gold_NC], axis=1)

    def value(self, sums):
        correct, predicted, gold = np.split(sums, 3, axis=-1)
        seen = (predicted + gold > 0).sum(axis=-1)
        return ratio(ratio(2 * correct, predicted + gold).sum(axis=-1), seen)


@dataclass(frozen=True)
class MCC(Metric):
    """Matthews' correlation of labels, for any number of them (Gorodkin, 2004); 0 where either side has but one label.

    labels: as `MacroF1`'s. All predictions outside them count as one label more.
    """

    labels: tuple[Hashable, ...] = ()
    name = "mcc"

    def __call__(self, predictions, references):
        predicted, gold, _ = _codes(predictions, references, self.labels)
        if len(np.union1d(predicted, gold)) < 2:
            return 0.0  # scikit-learn says so too, with a warning
        return float(_sklearn().matthews_corrcoef(gold, predicted))

    def statistics(self, predictions, references):
        predicted, gold, size = _codes(predictions, references, self.labels)
        correct = (predicted == gold)[:, None].astype(np.float64)
        return np.concatenate([correct, _one_hot(predicted, size + 1), _one_hot(gold, size + 1)], axis=1)

    def value(self, sums):
        correct, (predicted, gold) = sums[..., 0], np.split(sums[..., 1:], 2, axis=-1)
        total = gold.sum(axis=-1)
        covariance = correct * total - (predicted * gold).sum(axis=-1)
        spread = (total**2 - (predicted**2).sum(axis=-1)) * (total**2 - (gold**2).sum(axis=-1))
        return ratio(covariance, np.sqrt(spread))


def _sklearn():
    return require("sklearn.metrics", "tasks")


def _codes(
    predictions: Sequence[Hashable], references: Sequence[Hashable], labels: Sequence[Hashable]
) -> tuple[np.ndarray, np.ndarray, int]:
    """(predicted i64[N], gold i64[N], C) of labels as numbers below C; a prediction outside them is C.

    Numbers, since arrays of text lose a label's trailing zero bytes.
    """
    check_paired(predictions, references)
    code = {label: number for number, label in enumerate(dict.fromkeys([*labels, *references]))}
    predicted = np.array([code.get(label, len(code)) for label in predictions])
    return predicted, np.array([code[label] for label in references]), len(code)


def _one_hot(codes: np.ndarray, size: int) -> np.ndarray:
    return (codes[:, None] == np.arange(size)).astype(np.float64)
