"""Tasks with true labels that are computed from the running Python's own standard library: no downloads."""

from ptjax.data.examples.stdlib.functions import StdlibExamples
from ptjax.data.examples.stdlib.packages import PackageExamples
from ptjax.data.examples.stdlib.pairs import SwapExamples
from ptjax.data.examples.stdlib.questions import ReturnExamples
from ptjax.data.examples.stdlib.tokens import TokenKindExamples

__all__ = ["PackageExamples", "ReturnExamples", "StdlibExamples", "SwapExamples", "TokenKindExamples"]
