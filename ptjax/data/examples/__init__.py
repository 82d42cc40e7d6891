"""Labelled examples of tasks, from files in the formats people keep them."""

from ptjax.data.examples.base import Example, Examples, NoExamples, Split
from ptjax.data.examples.conll import ConllExamples, ConlluExamples
from ptjax.data.examples.jsonl import JsonExamples
from ptjax.data.examples.squad import SquadExamples
from ptjax.data.examples.stdlib import PackageExamples, ReturnExamples, SwapExamples, TokenKindExamples
from ptjax.data.examples.table import TableExamples
from ptjax.data.examples.tfds import TfdsExamples

__all__ = ["Example", "Examples", "NoExamples", "Split"]
__all__ += ["ConllExamples", "ConlluExamples", "JsonExamples", "SquadExamples", "TableExamples", "TfdsExamples"]
__all__ += ["PackageExamples", "ReturnExamples", "SwapExamples", "TokenKindExamples"]
