"""What results are measured by, and held against."""

from ptjax.metrics.answers import AnswerF1, ExactMatch
from ptjax.metrics.base import Metric
from ptjax.metrics.baseline import unigram_entropy
from ptjax.metrics.classification import MCC, Accuracy, MacroF1
from ptjax.metrics.correlation import Pearson, Spearman
from ptjax.metrics.pairs import GroupAccuracy, PairAccuracy
from ptjax.metrics.tagging import SpanF1, SpanPrecision, SpanRecall, TokenAccuracy

__all__ = [
    "MCC",
    "Accuracy",
    "AnswerF1",
    "ExactMatch",
    "GroupAccuracy",
    "MacroF1",
    "Metric",
    "PairAccuracy",
    "Pearson",
    "SpanF1",
    "SpanPrecision",
    "SpanRecall",
    "Spearman",
    "TokenAccuracy",
    "unigram_entropy",
]
