"""What results are measured by, and held against."""

from ptjax.metrics.base import Metric
from ptjax.metrics.baseline import unigram_entropy

__all__ = ["Metric", "unigram_entropy"]
