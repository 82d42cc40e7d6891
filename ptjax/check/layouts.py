"""Laws of one training on any layout: a mesh, pmap, and microbatches of unequal weights."""

import jax
import numpy as np

from ptjax.check.result import Result, at_most, skipped, worst
from ptjax.check.subject import Subject, distance
from ptjax.config import UserError
from ptjax.partition import MeshConfig

TIGHT = 2e-5  # of the largest value of a leaf, in float32


def accumulation(subject: Subject) -> Result:
    """Four microbatches a step train as one batch does."""
    return same(subject, accumulation=4)


def mesh(subject: Subject) -> Result:
    """So does a mesh that divides rows, parameters, experts, heads and vocabulary."""
    devices = jax.device_count()
    size = {axis: 2 if devices % power == 0 else 1 for axis, power in [("tensor", 2), ("fsdp", 4), ("expert", 8)]}
    if devices == 1:
        return skipped("there is one device")
    if np.prod(list(size.values())) != devices:
        return skipped(f"{devices} devices are not 2, 4 or 8")
    return same(subject, mesh=MeshConfig(data=1, **size))


def pmap(subject: Subject) -> Result:
    """So does pmap."""
    devices = jax.device_count()
    if devices == 1:
        return skipped("there is one device")
    if subject.experiment.data.batch_size % devices:
        return skipped(f"{devices} devices do not divide {subject.experiment.data.batch_size} rows")
    return same(subject, mesh=MeshConfig(layout="pmap"))


def same(subject: Subject, **changes) -> Result:
    """Parameters and metrics after plain descent, against those of one device that takes the batch whole.

    Where it is divided, a body's auxiliary losses are left out: they are no sums over examples, and each part of the
    batch has its own.
    """
    mesh = changes.get("mesh", MeshConfig())
    divided = changes.get("accumulation", 1) > 1 or mesh.layout == "pmap"
    if divided and any(subject.experiment.model.auxiliary.values()):
        if subject.without_auxiliary is None:
            return skipped("the body has losses that are no sums over examples")
        subject = subject.without_auxiliary
    results = []
    for learner, (expected_params, expected) in zip(subject.stages, subject.trained_alone):
        try:
            params, metrics = subject.trained(learner, **changes)
        except UserError as error:
            return skipped(str(error))
        gap, what = distance(expected_params, params), "parameters"
        for key, value in expected.items():
            if divided and key.startswith("auxiliary/"):
                continue
            apart = abs(metrics.get(key, np.nan) - value) / max(abs(value), 1e-2)
            if not apart <= gap:
                gap, what = apart, key
        results.append((type(learner.objective).__name__, at_most(gap, TIGHT, f"relative gap of {what}")))
    return worst(results)
