"""Runs an evaluation step over a split and turns sums into means."""

import math
from collections.abc import Callable, Iterable

import jax
import numpy as np

from ptjax.partition import CompiledStep
from ptjax.types import Memory, PyTree


def evaluate(
    step: CompiledStep,
    loss: Callable[[dict[str, float]], float],
    params: PyTree,
    memory: Memory | None,
    batches: Iterable[dict],
) -> dict[str, float]:
    """Means over all examples, each metric by its own weight, summed in float64.

    loss: from the mean of each term to what is minimised. memory: what the first batch starts from. perplexity is
    exp(nll).
    """
    sums: dict[str, np.ndarray] = {}
    for batch in batches:
        memory, metrics = step((params, memory), step.place(batch))
        for name, pair in jax.device_get(metrics).items():
            sums[name] = sums.get(name, 0.0) + np.asarray(pair, np.float64)
    means = {name: total / weight if weight else math.nan for name, (total, weight) in sums.items()}
    terms = {name.removeprefix("loss/"): value for name, value in means.items() if name.startswith("loss/")}
    result = {"loss": float(loss(terms))}
    result |= {name: float(mean) for name, mean in means.items() if len(terms) > 1 or "loss/" not in name}
    if "nll" in result:
        result["perplexity"] = math.exp(min(result["nll"], 700.0))
    return result
