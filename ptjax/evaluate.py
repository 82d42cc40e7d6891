"""Runs an evaluation step over a split and turns sums into means."""

import math
from collections.abc import Callable, Iterable

import jax
import numpy as np

from ptjax.partition import CompiledStep
from ptjax.types import PyTree


def evaluate(
    step: CompiledStep, loss: Callable[[dict[str, float]], float], params: PyTree, batches: Iterable[dict]
) -> dict[str, float]:
    """Means over all examples, each metric by its own weight, summed in float64.

    loss: from the mean of each term to what is minimised. perplexity is exp(nll).
    """
    sums: dict[str, np.ndarray] = {}
    for batch in batches:
        for name, pair in jax.device_get(step(params, step.place(batch))).items():
            sums[name] = sums.get(name, 0.0) + np.asarray(pair, np.float64)
    means = {name: total / weight if weight else math.nan for name, (total, weight) in sums.items()}
    terms = {name.removeprefix("loss/"): value for name, value in means.items() if name.startswith("loss/")}
    result = {"loss": float(loss(terms))}
    result |= {name: float(mean) for name, mean in means.items() if len(terms) > 1 or "loss/" not in name}
    if "nll" in result:
        result["perplexity"] = math.exp(min(result["nll"], 700.0))
    return result
