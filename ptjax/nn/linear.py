"""Dense projections whose kernels carry logical axis names."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn

from ptjax.types import Array

Axes = tuple[int, ...]


class Linear(nn.Module):
    """y = x W + b over the last `contract` axes of x, in the compute dtype; W and b are float32 parameters.

    shape: the kernel's, input axes first, so that a projection into heads is one [D, H, K] array
    (`nn.DenseGeneral` reshapes its kernel and loses the match between axes and names under a mesh).
    names: the kernel's logical axes, one for each of its axes.
    """

    shape: Sequence[int]
    names: Sequence[str]
    std: float
    contract: int = 1
    use_bias: bool = True
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        init = nn.with_logical_partitioning(nn.initializers.normal(self.std), tuple(self.names))
        kernel = self.param("kernel", init, tuple(self.shape), jnp.float32).astype(self.dtype)
        y = jnp.tensordot(x.astype(self.dtype), kernel, axes=self.contract)
        if self.use_bias:
            out, names = tuple(self.shape[self.contract :]), tuple(self.names[self.contract :])
            init = nn.with_logical_partitioning(nn.initializers.zeros, names)
            y = y + self.param("bias", init, out, jnp.float32).astype(self.dtype)
        return y


def stacked(path: Sequence[str]) -> int:
    """How many leading axes of the parameter at this path count layers (`nn.scan`), or experts, rather than being its
    own."""
    return sum(name in path for name in ("layers", "experts"))


def kernel_axes(path: Sequence[str], ndim: int) -> tuple[Axes, Axes, Axes]:
    """Axes of the kernel at this path, `ndim` in all: those that count layers and experts, inputs, outputs."""
    axes, first = tuple(range(ndim)), stacked(path)
    # These map one axis (the width) to heads x size; any other kernel ends in its one output axis.
    split = first + 1 if path[-2] in ("query", "key", "value", "distance") else ndim - 1
    return axes[:first], axes[first:split], axes[split:]
