"""A tag for each word: spans by seqeval, as conlleval counts them, and the share of the words whose tag is right."""

from collections.abc import Sequence

import numpy as np

from ptjax.logging import require
from ptjax.metrics.base import Metric, check_paired, ratio

Tags = Sequence[str]  # of a sentence


class SpanF1(Metric):
    """F1 of spans over all sentences, of all types together (Tjong Kim Sang and De Meulder, 2003).

    A span is right where its type and both ends are. Tags are BIO; as conlleval does, a span may also begin with I-
    (after O, or after another type). Predictions and references: a list of tags a sentence, of one length.
    """

    name = "span_f1"

    def __call__(self, predictions, references):
        _check_tags(predictions, references)
        score = getattr(require("seqeval.metrics", "tasks"), self._seqeval)
        return float(score([*map(list, references)], [*map(list, predictions)], average="micro", zero_division=0))

    _seqeval = "f1_score"

    def statistics(self, predictions, references):
        """Of each sentence the numbers of spans: right, predicted, in the reference."""
        _check_tags(predictions, references)
        ends = np.cumsum([len(tags) + 1 for tags in references])  # seqeval puts an O after each sentence
        counts = np.zeros((len(references), 3))
        predicted, gold = _spans(predictions), _spans(references)
        for column, spans in enumerate((predicted & gold, predicted, gold)):
            last = [end for _, _, end in spans]
            np.add.at(counts[:, column], np.searchsorted(ends, last, side="right"), 1)
        return counts

    def value(self, sums):
        return ratio(2 * sums[..., 0], sums[..., 1] + sums[..., 2])


class SpanPrecision(SpanF1):
    """Share of the predicted spans that are right; 0 where none is predicted."""

    name = "span_precision"
    _seqeval = "precision_score"

    def value(self, sums):
        return ratio(sums[..., 0], sums[..., 1])


class SpanRecall(SpanF1):
    """Share of the references' spans that are found; 0 where there are none."""

    name = "span_recall"
    _seqeval = "recall_score"

    def value(self, sums):
        return ratio(sums[..., 0], sums[..., 2])


class TokenAccuracy(Metric):
    """Share of the words, over all sentences, whose tag is right; 0 where there are no words."""

    name = "accuracy"

    def __call__(self, predictions, references):
        _check_tags(predictions, references)
        if not any(map(len, references)):
            return 0.0
        score = require("seqeval.metrics", "tasks").accuracy_score
        return float(score([*map(list, references)], [*map(list, predictions)]))

    def statistics(self, predictions, references):
        """Of each sentence the numbers of words: right, all."""
        _check_tags(predictions, references)
        pairs = zip(predictions, references)
        return np.array([[sum(map(str.__eq__, found, gold)), len(gold)] for found, gold in pairs], np.float64)

    def value(self, sums):
        return ratio(sums[..., 0], sums[..., 1])


def _check_tags(predictions: Sequence[Tags], references: Sequence[Tags]) -> None:
    check_paired(predictions, references)
    for number, (found, gold) in enumerate(zip(predictions, references)):
        if len(found) != len(gold):
            raise ValueError(f"sentence {number}: {len(found)} tags are predicted for {len(gold)} words")
        if not all(found) or not all(gold):
            raise ValueError(f"sentence {number}: a tag is empty")


def _spans(sentences: Sequence[Tags]) -> set[tuple[str, int, int]]:
    """(type, first, last) of all sentences at once, as seqeval reads them when it scores."""
    get_entities = require("seqeval.metrics.sequence_labeling", "tasks").get_entities
    return set(get_entities([list(tags) for tags in sentences]))
