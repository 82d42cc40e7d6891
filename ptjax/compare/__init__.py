"""Paired comparisons: arms that differ in what is declared and, provably, in nothing else."""

from ptjax.compare.comparison import Arm, Comparison

__all__ = ["Arm", "Comparison"]
