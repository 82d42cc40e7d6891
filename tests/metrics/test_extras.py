"""The libraries that measure are extras."""

import sys

import pytest

from ptjax.config import UserError
from ptjax.metrics import MCC, Accuracy, MacroF1, Metric, Pearson, SpanF1, Spearman, TokenAccuracy


@pytest.mark.parametrize(
    "metric, module",
    [(metric, "sklearn.metrics") for metric in (Accuracy(), MacroF1(), MCC())]
    + [(metric, "scipy.stats") for metric in (Pearson(), Spearman())]
    + [(metric, "seqeval.metrics") for metric in (SpanF1(), TokenAccuracy())],
)
def test_one_that_is_missing_is_named_with_its_command(metric: Metric, module: str, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    rows = {"sklearn.metrics": ["a", "b"], "scipy.stats": [1.0, 2.0], "seqeval.metrics": [["O"], ["B-PER"]]}[module]
    with pytest.raises(UserError, match=rf"{module} is not installed .*pip install 'ptjax\[tasks\]'"):
        metric(rows, rows)
