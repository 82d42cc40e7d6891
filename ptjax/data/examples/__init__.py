"""Labelled examples of tasks, from files in the formats people keep them."""

from ptjax.data.examples.base import Example, Examples, Split

__all__ = ["Example", "Examples", "Split"]
