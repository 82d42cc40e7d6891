"""How a score or a loss grows with compute: a line through arms of several sizes, and how sure its slope is.

A loss falls as a power of compute over many decades (Kaplan et al., 2020, arXiv 2001.08361), and a score is taken to be
linear in the logarithm of it, which can hold only between chance and perfection. What is fitted are the few sizes that
were trained. A line through three to five points within a decade or two fits many laws: it does not show that this one
holds, has no irreducible loss (Hoffmann et al., 2022, arXiv 2203.15556, whose parameters and tokens grow together), and
says nothing of sizes outside its range, which it is not drawn for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import special

from ptjax.bootstrap import check_confidence

FORMS = {"score": "score = a + b log10(FLOPs)", "loss": "loss = a FLOPs^b"}
PLACES = 25  # that a band is given at
GAP = 0.01  # of log10(FLOPs) between sizes: what is nearer is one size


@dataclass(frozen=True)
class Fit:
    """A line and what is known of it.

    form: in words; slope is its b: of a score, what ten times the FLOPs add; of a loss, the exponent.
    low, high: t interval of the slope. p: two-sided, that it is 0. r2: of the sizes' means, NaN where all are
    equal. sizes: how many.
    band: (FLOPs, mid, low, high) of the line itself, from the smallest size to the largest.
    """

    form: str
    slope: float
    low: float
    high: float
    p: float
    r2: float
    sizes: int
    band: list[tuple[float, float, float, float]]


def fit(
    flops: Sequence[float], values: Sequence[float], kind: Literal["loss", "score"], confidence: float = 0.95
) -> Fit | None:
    """Ordinary least squares over the logarithm of FLOPs, of scores as they are and of losses' logarithms.

    Runs of one size say how well that size is known, not whether the line is right about other sizes: so the line is
    fitted to the means of sizes, each one point, and its t has G - 2 degrees of freedom for G of them, however many
    seeds there were. Runs without a value (NaN), or without a logarithm, are left out; None where fewer than 3 sizes
    are left.
    """
    if kind not in FORMS:
        raise ValueError(f"kind is one of {', '.join(FORMS)}, not {kind!r}")
    check_confidence(confidence)
    x, y = np.asarray(flops, np.float64), np.asarray(values, np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"FLOPs {x.shape} and values {y.shape}: one of each for a run")
    known = np.isfinite(x) & np.isfinite(y) & (x > 0) & ((y > 0) | (kind == "score"))
    x, y = np.log10(x[known]), np.log10(y[known]) if kind == "loss" else y[known]
    order = np.argsort(x, kind="stable")
    x, y = x[order], y[order]
    size = np.cumsum(np.diff(x, prepend=x[:1]) > GAP)
    runs = np.bincount(size)
    if len(runs) < 3:
        return None
    means = np.bincount(size, y - y[0]) / runs + y[0]  # exactly equal where all values are
    return _line(np.bincount(size, x) / runs, means, kind, confidence)


def _line(x: np.ndarray, y: np.ndarray, kind: str, confidence: float) -> Fit:
    """Through f64[G], logarithms of FLOPs, and as many values."""
    from_x, from_y = x - x.mean(), y - y.mean()
    square = from_x @ from_x
    slope = float(from_x @ from_y / square)
    left = from_y - slope * from_x
    freedom = len(x) - 2
    error = float(np.sqrt(left @ left / freedom / square))  # of the slope
    p = 2 * float(special.stdtr(freedom, -abs(slope) / error)) if error > 0 else float(slope == 0)
    r2 = 1 - float(left @ left / (from_y @ from_y)) if from_y.any() else np.nan

    t = float(special.stdtrit(freedom, (1 + confidence) / 2))
    at = np.linspace(x[0], x[-1], PLACES)
    mid = y.mean() + slope * (at - x.mean())
    reach = t * error * np.sqrt(x.var() + (at - x.mean()) ** 2)
    lines = [10**line if kind == "loss" else line for line in (mid, mid - reach, mid + reach)]
    band = [tuple(map(float, row)) for row in zip(10**at, *lines)]
    return Fit(FORMS[kind], slope, slope - t * error, slope + t * error, p, r2, len(x), band)
