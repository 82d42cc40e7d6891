"""Answers in words, as the official script of SQuAD 2.0 measures them (Rajpurkar et al., 2018).

A prediction is a text, '' for no answer; a reference the list of the texts that are right, [] where there is no answer.
SQuAD 1.1 is measured the same: its script differs only where an answer has no word but an article or punctuation.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np

from ptjax.metrics.base import Mean

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(?:an?|the)\b")


class _Answers(Mean):
    """The best over the texts that are right."""

    def scores(self, predictions, references):
        found = []
        for prediction, texts in zip(predictions, references):
            # A right text without a word is none, and a question with none left has no answer.
            right = [words for words in map(answer_words, texts) if words] or [[]]
            found.append(max(self._score(answer_words(prediction), words) for words in right))
        return np.array(found, np.float64)

    def _score(self, predicted: Sequence[str], right: Sequence[str]) -> float:
        raise NotImplementedError


class ExactMatch(_Answers):
    """Share of the questions whose answer is right, but for case, punctuation, articles and white space."""

    name = "exact_match"

    def _score(self, predicted, right):
        return float(predicted == right)


class AnswerF1(_Answers):
    """Mean over questions of the F1 score of an answer's words, as a bag."""

    name = "f1"

    def _score(self, predicted, right):
        if not predicted or not right:
            return float(predicted == right)
        return 2 * (Counter(predicted) & Counter(right)).total() / (len(predicted) + len(right))


def answer_words(text: str) -> list[str]:
    """Words of an answer that are compared: in lower case, without ASCII punctuation, then without articles."""
    return _ARTICLE.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split()
