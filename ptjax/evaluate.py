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
    names = [name for name in sums if name.startswith("loss/")]
    # A term that nothing was asked of counts as nothing, as in training: a hybrid's split may have no causal row.
    terms = {name.removeprefix("loss/"): means[name] for name in names if sums[name][1]}
    result = {"loss": float(loss(terms)) if terms else math.nan}
    result |= {name: float(mean) for name, mean in means.items() if len(names) > 1 or name not in names}
    if "nll" in result:
        result["perplexity"] = math.exp(min(result["nll"], 700.0))
    return result
