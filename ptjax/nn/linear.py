"""Dense projections whose kernels carry logical axis names."""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from ptjax import partition, platforms
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
        y = product(x.astype(self.dtype), kernel, self.contract)
        if self.use_bias:
            out, names = tuple(self.shape[self.contract :]), tuple(self.names[self.contract :])
            init = nn.with_logical_partitioning(nn.initializers.zeros, names)
            y = y + self.param("bias", init, out, jnp.float32).astype(self.dtype)
        return y


def product(x: Array, kernel: Array, contract: int) -> Array:
    """The tensor product over the last `contract` axes of x and the first of the kernel, as `jnp.tensordot`."""
    if not _turned():
        return jnp.tensordot(x, kernel, axes=contract)
    rows, columns = x.shape[: x.ndim - contract], kernel.shape[contract:]
    flat = kernel.reshape(-1, math.prod(columns))
    return _product(x.reshape(-1, flat.shape[0]), flat).reshape(*rows, *columns)


@jax.custom_vjp
def _product(x_NI: Array, kernel_IO: Array) -> Array:
    return x_NI @ kernel_IO


def _product_backward(residuals, dy_NO):
    x_NI, kernel_IO = residuals
    return dy_NO @ kernel_IO.T, over_rows(x_NI, dy_NO)


_product.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), _product_backward)


def _turned() -> bool:
    # Divided arrays keep their axes, which the partitioner matches with those of the mesh.
    return platforms.here().turned and partition.active() is None


def over_rows(x_NI: Array, y_NO: Array, dtype: jnp.dtype | None = None) -> Array:
    """x^T y -> [I, O], which is how the gradient of a kernel is summed. dtype: of the sums; None: of the factors.

    On CPUs the shorter factor is turned around in memory first, and nothing else is: left to itself XLA may turn the
    longer one around and then multiply by strides, four times as slow.
    """
    product = functools.partial(jnp.einsum, preferred_element_type=dtype)
    if not _turned():
        return product("ni,no->io", x_NI, y_NO)
    stay = jax.lax.optimization_barrier
    if x_NI.shape[1] <= y_NO.shape[1]:
        return product("in,no->io", stay(x_NI.T), y_NO)
    return stay(product("on,ni->oi", stay(y_NO.T), x_NI)).T


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
