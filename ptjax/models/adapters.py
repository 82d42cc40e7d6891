"""Low-rank changes of a net's kernels, which learn in place of them."""

import dataclasses
import math
import zlib
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ptjax.config import UserError
from ptjax.nn.linear import kernel_axes, stacked
from ptjax.types import Array, PyTree, TextInput

PART = "adapter"  # of the parameters; it repeats the paths of the kernels that it changes


@dataclasses.dataclass(frozen=True)
class LowRankNet:
    """A net each of whose chosen kernels W, of the body, is W + alpha / rank * a b (LoRA; Hu et al., 2021).

    a is drawn as in the authors' code, evenly within 1 / sqrt(inputs); b begins at 0, and so the net as it was. Both
    keep the kernel's axes and their logical names: a is [layers..., inputs..., rank], b [layers..., rank, outputs...].

    targets: names in the kernels' paths: 'query', 'attention', ... `init` raises UserError for one that the body does
    not have.
    """

    net: Any
    rank: int
    alpha: float
    targets: tuple[str, ...]

    def init(self, key: Array, inputs: TextInput) -> PyTree:
        params, adapter = self.net.init(key, inputs)["params"], {}
        for path, kernel in self._chosen(params).items():
            part = adapter
            for name in path[:-1]:
                part = part.setdefault(name, {})
            part[path[-1]] = self._pair(jax.random.fold_in(key, zlib.crc32(".".join(path).encode())), path, kernel)
        return {"params": {**params, PART: adapter}}

    def _chosen(self, params: PyTree) -> dict[tuple[str, ...], nn.LogicallyPartitioned]:
        is_box = lambda x: isinstance(x, nn.meta.AxisMetadata)  # noqa: E731
        leaves = jax.tree_util.tree_leaves_with_path({"body": params["body"]}, is_leaf=is_box)
        kernels = {tuple(key.key for key in path): leaf for path, leaf in leaves if path[-1].key == "kernel"}
        for target in self.targets:
            if not any(target in path[1:-1] for path in kernels):
                has = ", ".join(sorted({path[-2] for path in kernels}))
                raise UserError(f"tuning.targets: the body has no kernel {target!r}; it has {has}")
        return {path: box for path, box in kernels.items() if set(path[1:-1]) & set(self.targets)}

    def _pair(self, key: Array, path: tuple[str, ...], kernel: nn.LogicallyPartitioned) -> PyTree:
        shape, names = kernel.value.shape, kernel.names
        stack, inputs, outputs = kernel_axes(path, len(shape))
        of = lambda values, *groups: tuple(values[axis] for group in groups for axis in group)  # noqa: E731
        bound = 1 / math.sqrt(math.prod(of(shape, inputs)))
        a = jax.random.uniform(key, (*of(shape, stack, inputs), self.rank), jnp.float32, -bound, bound)
        b = jnp.zeros((*of(shape, stack), self.rank, *of(shape, outputs)), jnp.float32)
        return {
            "a": nn.LogicallyPartitioned(a, names=(*of(names, stack, inputs), "rank")),
            "b": nn.LogicallyPartitioned(b, names=(*of(names, stack), "rank", *of(names, outputs))),
        }

    def apply(self, variables: PyTree, *arguments, **options):
        params = merged(variables["params"], self.alpha)
        return self.net.apply({**variables, "params": params}, *arguments, **options)


def merged(params: PyTree, alpha: float) -> PyTree:
    """Parameters of the net without adapters that is the same function."""
    return _changed({name: part for name, part in params.items() if name != PART}, params[PART], alpha, ())


def share(params: PyTree) -> float:
    """Of the numbers in the body's kernels, the part that is in kernels with an adapter."""
    sizes = {tuple(key.key for key in path): x.size for path, x in jax.tree_util.tree_leaves_with_path(params)}
    kernels = {path: size for path, size in sizes.items() if path[0] == "body" and path[-1] == "kernel"}
    return sum(size for path, size in kernels.items() if (PART, *path, "a") in sizes) / sum(kernels.values())


def _changed(params: PyTree, change: PyTree, alpha: float, path: tuple[str, ...]) -> PyTree:
    if path and path[-1] == "kernel":
        a, b, count = change["a"], change["b"], stacked(path)
        stack = tuple(range(count))
        return params + alpha / a.shape[-1] * jax.lax.dot_general(a, b, (((a.ndim - 1,), (count,)), (stack, stack)))
    return {**params, **{name: _changed(params[name], part, alpha, (*path, name)) for name, part in change.items()}}
