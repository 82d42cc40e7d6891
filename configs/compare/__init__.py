"""Comparisons, for `experiments.compare`."""
