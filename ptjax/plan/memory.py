"""Bytes that a step keeps on each device, by kind, and what the compiler says where they are too many."""

import dataclasses
import re

import jax
import numpy as np

from ptjax.types import PyTree

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def held(tree: PyTree) -> int:
    """Bytes that one device has of abstract arrays with shardings."""
    sizes = ((leaf.sharding.shard_shape(leaf.shape), leaf.dtype.itemsize) for leaf in jax.tree.leaves(tree))
    return sum(int(np.prod(shape)) * width for shape, width in sizes)


def of_state(state: PyTree, batch: PyTree) -> dict[str, int]:
    """Of an abstract TrainState and batch: known without the compiler."""
    kinds = {
        "parameters": held(state.params),
        "optimizer": held(state.opt_state),
        "average of parameters": held(state.ema),
        "segment memory": held(state.memory),
        "batch": held(batch),
    }
    return {kind: size for kind, size in kinds.items() if size}


def of_step(compiled: jax.stages.Compiled, state: PyTree, batch: PyTree) -> dict[str, int]:
    """The same with what the compiled step adds. temporaries: activations, gradients and buffers, at their peak."""
    kinds, found = of_state(state, batch), compiled.memory_analysis()
    padding = found.argument_size_in_bytes - sum(kinds.values())
    kinds |= {
        "scalars and padding": max(padding, 0),
        "temporaries": found.temp_size_in_bytes,
        "outputs beyond the state": max(found.output_size_in_bytes - found.alias_size_in_bytes, 0),
        "code": found.generated_code_size_in_bytes,
    }
    return {kind: size for kind, size in kinds.items() if size}


@dataclasses.dataclass(frozen=True)
class Exhausted:
    """The compiler found that a step does not fit. needed: bytes, of temporaries alone or of all; available: bytes."""

    needed: float
    available: float
    of: str

    @classmethod
    def read(cls, message: str) -> "Exhausted | None":
        """From the error that the TPU's compiler raises; None where it says something else."""
        size = r"([\d.]+)\s?([KMGT]?)i?B?"
        if "RESOURCE_EXHAUSTED" not in message and "Ran out of memory" not in message:
            return None
        if found := re.search(rf"HLO temporaries \({size}\) exceeds available HBM \({size}\)", message):
            return cls(*_pair(found), "temporaries")
        if found := re.search(rf"Used {size} of {size} hbm", message):
            return cls(*_pair(found), "all")
        return None


def _pair(found: re.Match) -> tuple[float, float]:
    first, one, second, other = found.groups()
    return float(first) * UNITS[one], float(second) * UNITS[other]
