"""Where arrays live: the device mesh, logical-axis rules, shardings, and compiling a step for them.

Model code names axes ('batch', 'embed', 'heads', ...); `Rules` maps the names to mesh axes. Nothing else in ptjax
knows how many devices or processes there are.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Sequence
from typing import Literal

import chz
import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ptjax.config import Config, UserError
from ptjax.types import Array, Batch, PyTree

# Rows of a batch are divided over all three: fsdp and expert are data parallelism with divided state.
BATCH_AXES = ("data", "fsdp", "expert")
AXES = (*BATCH_AXES, "tensor")


@chz.chz
class Rules(Config):
    """The mesh axis over which each logical axis of a parameter or activation is divided; None: not divided."""

    embed: str | None = chz.field(default="fsdp", doc="model width, in kernels")
    mlp: str | None = chz.field(default="tensor", doc="hidden units of the feed-forward part")
    heads: str | None = chz.field(default="tensor", doc="attention heads")
    kv_heads: str | None = chz.field(default="tensor", doc="heads of keys and values, where queries share them")
    experts: str | None = chz.field(default="expert", doc="experts of a mixture")
    vocab: str | None = chz.field(default="tensor", doc="rows of the embedding table")
    table: str | None = chz.field(default=None, doc="width of the embedding tables")

    @chz.validate
    def _known_axes(self):
        for name, axis in chz.beta_to_blueprint_values(self).items():
            if axis not in (None, *AXES):
                raise ValueError(f"rules.{name}={axis!r}: the mesh axes are {', '.join(AXES)} (or None)")

    def axis(self, name: str) -> str | tuple[str, ...] | None:
        return BATCH_AXES if name == "batch" else getattr(self, name, None)


@chz.chz
class MeshConfig(Config):
    """The shape of the device mesh. One of the four sizes may be -1: all the devices that the others leave."""

    data: int = chz.field(default=-1, doc="data parallelism: every device holds all parameters")
    fsdp: int = chz.field(default=1, doc="data parallelism with parameters and optimizer state divided")
    expert: int = chz.field(
        default=1, doc="data parallelism with the experts of a mixture divided; each device gathers the others' rows"
    )
    tensor: int = chz.field(default=1, doc="tensor parallelism: heads, hidden units and vocabulary divided")
    layout: Literal["jit", "pmap"] = chz.field(default="jit", doc="jit over the mesh, or pmap (data parallel only)")
    rules: Rules = chz.field(default_factory=Rules, doc="logical axis to mesh axis")


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh over `devices` (None: all of all processes). Raises UserError where the shape does not fit them."""
    devices = jax.devices() if devices is None else devices
    shape = {axis: getattr(config, axis) for axis in AXES}
    count, free = len(devices), [name for name, size in shape.items() if size == -1]
    text = ", ".join(f"mesh.{name}={size}" for name, size in shape.items())
    if len(free) > 1 or any(size < 1 and size != -1 for size in shape.values()):
        raise UserError(f"{text}: sizes are positive, and one at most is -1 (the rest of the devices)")
    fixed = int(np.prod([size for size in shape.values() if size != -1]))
    if count % fixed or (not free and fixed != count):
        raise UserError(
            f"{text} wants {'a multiple of ' if free else ''}{fixed} devices and there are {count}: "
            "change a size, or leave one of them -1 to take what is there"
        )
    for name in free:
        shape[name] = count // fixed
    if config.layout == "pmap" and shape["data"] != count:
        raise UserError(f"mesh.layout=pmap is data parallel only, so mesh.data must be {count} and not {shape}")
    return jax.make_mesh(tuple(shape.values()), tuple(shape), axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def batch_shards(mesh: Mesh) -> int:
    """Into how many parts the rows of a batch are divided."""
    return int(np.prod([mesh.shape[axis] for axis in BATCH_AXES]))


def process_part(mesh: Mesh) -> tuple[int, int]:
    """(i, n): this process holds part i of the n equal parts into which processes divide the rows of a batch.

    Processes that a tensor axis joins hold the same rows, so n may be less than their number.
    """
    shards, rows = batch_shards(mesh), {}
    for device, (part,) in batch_sharding(mesh).devices_indices_map((shards,)).items():
        rows.setdefault(device.process_index, set()).add(part.indices(shards)[0])
    parts = sorted({tuple(sorted(held)) for held in rows.values()})
    return parts.index(tuple(sorted(rows[jax.process_index()]))), len(parts)


# --- activations: a model names their axes, the step that is being compiled says what the names mean ---

_active: contextvars.ContextVar[tuple[Mesh, Rules] | None] = contextvars.ContextVar("active mesh", default=None)


@contextlib.contextmanager
def use(mesh: Mesh, rules: Rules):
    """Within it, `constrain` and `per_row` refer to this mesh. Compiled steps trace under it."""
    token = _active.set((mesh, rules))
    try:
        yield
    finally:
        _active.reset(token)


def active() -> tuple[Mesh, Rules] | None:
    """The mesh that is being compiled for, with its rules; None outside `use` and where it has one device."""
    found = _active.get()
    return None if found is None or found[0].size == 1 else found


def constrain(x: Array, *names: str) -> Array:
    """Asks that activation x, whose axes are `names`, be divided as the rules say. Does nothing outside `use`."""
    if (found := active()) is None:
        return x
    mesh, rules = found
    spec = PartitionSpec(*(rules.axis(name) for name in names))
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))


def platform() -> str:
    """'cpu', 'gpu' or 'tpu': of the mesh that is being compiled for, which may be of devices that are not here; outside
    `use` of this machine's."""
    found = _active.get()
    return jax.default_backend() if found is None else found[0].devices.flat[0].platform


def active_shards() -> int:
    """Into how many parts the mesh that is being compiled for divides the rows of a batch; 1 outside `use`."""
    found = active()
    return 1 if found is None else batch_shards(found[0])


def dealt(tree: PyTree, parts: int) -> PyTree:
    """[N, ...] -> [parts, N / parts, ...] at each leaf. Part i takes every so-manieth row from i on: contiguous ones
    would change devices."""
    return jax.tree.map(lambda x: x.reshape(len(x) // parts, parts, *x.shape[1:]).swapaxes(0, 1), tree)


def collected(tree: PyTree) -> PyTree:
    """The inverse of `dealt`."""
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), tree)


def per_row(function: Callable[..., PyTree], *rows: PyTree) -> PyTree:
    """function(*rows), where every leaf has a leading batch axis and rows do not touch each other.

    On a mesh each device runs it on its own rows: left to itself the partitioner gathers the batch for `top_k`.
    """
    if (found := active()) is None:
        return function(*rows)
    spec = PartitionSpec(BATCH_AXES)
    return jax.shard_map(function, mesh=found[0], in_specs=spec, out_specs=spec)(*rows)


def per_expert(
    function: Callable[[PyTree, PyTree, Array], Array], rows: PyTree, kernels: PyTree, names: PyTree
) -> Array:
    """function(rows, kernels, first), [B, ...]: what experts `first` and up, as many as there are kernels of, add to
    each row.

    rows: leaves with a leading batch axis. kernels: leaves whose first axis counts experts. names: a tuple of logical
    axes for each. On a mesh each device has the rows of all that share the experts with it, and those experts, or parts
    of their hidden units, that are its own; what they add is summed where the rows came from.
    """
    if (found := active()) is None:
        return function(rows, kernels, 0)
    mesh, rules = found
    holder, units = rules.experts, None if rules.mlp in BATCH_AXES else rules.mlp
    place = {"experts": holder, "mlp": units}
    specs = jax.tree.map(lambda own: PartitionSpec(*map(place.get, own)), names, is_leaf=lambda x: isinstance(x, tuple))
    meet = holder if holder in BATCH_AXES else None
    sums = {axis for axis in (holder, units) if axis not in (None, meet)}

    def local(rows, kernels):
        first = 0 if holder is None else jax.lax.axis_index(holder) * len(jax.tree.leaves(kernels)[0])
        if meet:
            rows = jax.tree.map(lambda x: jax.lax.all_gather(x, meet, tiled=True), rows)
        y = function(rows, kernels, first)
        y = jax.lax.psum_scatter(y, meet, tiled=True) if meet else y
        return jax.lax.psum(y, tuple(sums)) if sums else y

    spec = PartitionSpec(BATCH_AXES)
    # Without the check of what varies over which axis, which custom gradients and loops would have to spell out.
    return jax.shard_map(local, mesh=mesh, in_specs=(spec, specs), out_specs=spec, check_vma=False)(rows, kernels)


# --- state ---


def _path(path) -> str:
    return ".".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


def state_shardings(state: PyTree, names: PyTree, mesh: Mesh, rules: Rules) -> PyTree:
    """A NamedSharding for each leaf of an abstract TrainState.

    names: the tree of `params` with a tuple of logical axes at each leaf. Leaves elsewhere (moments, averages) that
    end in the path of a parameter and have its shape are divided like it; all others are replicated.
    Raises UserError, naming leaf and axis, where a size does not divide.
    """
    is_names = lambda x: isinstance(x, tuple) and all(isinstance(name, str | None) for name in x)
    by_path = {_path(p): spec for p, spec in jax.tree_util.tree_flatten_with_path(names, is_leaf=is_names)[0]}
    shapes = {_path(p): leaf.shape for p, leaf in jax.tree_util.tree_flatten_with_path(state.params)[0]}

    def sharding(path, leaf):
        keys = _path(path).split(".")
        for start in range(len(keys)):
            name = ".".join(keys[start:])
            if shapes.get(name) == leaf.shape:
                return NamedSharding(mesh, _spec(name, leaf.shape, by_path[name], mesh, rules))
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree_util.tree_map_with_path(sharding, state)


def _spec(path: str, shape: Sequence[int], names: Sequence[str | None], mesh: Mesh, rules: Rules) -> PartitionSpec:
    axes = [rules.axis(name) if name else None for name in names]
    for size, name, axis in zip(shape, names, axes, strict=True):
        if axis is not None and size % mesh.shape[axis]:
            raise UserError(
                f"parameter {path} has {size} along '{name}', which mesh.{axis}={mesh.shape[axis]} does not divide: "
                f"choose another mesh.{axis}, or leave the axis whole with mesh.rules.{name}=None"
            )
    used = [axis for axis in axes if axis is not None]
    for axis in used:
        if used.count(axis) > 1:
            both = [name for name, its in zip(names, axes) if its == axis]
            raise UserError(
                f"parameter {path} would be divided over mesh.{axis} along {' and '.join(map(repr, both))}: leave one "
                f"of them whole, as with mesh.rules.{both[-1]}=None"
            )
    return PartitionSpec(*axes)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


# --- steps ---


class CompiledStep:
    """A step(state, batch) compiled for a mesh.

    place(batch): starts the transfer of a host batch, numpy arrays with this process's rows of the global batch.
    Calling it with (state, placed batch) runs the step. lower(state, batch): for analysis, compiles nothing.
    """

    def __init__(self, function: Callable, place: Callable[[dict], Batch]):
        # pmap's `lower` wants batches as `place` shapes them, which nothing has use for.
        self._function, self.place = function, place
        self.lower = function.lower if isinstance(function, jax.stages.Wrapped) else None

    def __call__(self, state: PyTree, batch: Batch) -> PyTree:
        return self._function(state, batch)


def compile_step(
    step: Callable,
    mesh: Mesh,
    rules: Rules,
    shardings: PyTree,
    out: PyTree,
    layout: str = "jit",
    donate: bool = True,
) -> CompiledStep:
    """Compiles a pure step(state, batch, axis=None | 'data') -> (new state, metrics); given an axis it sums over it
    itself (pmap).

    shardings, out: of the state that goes in and of the one that comes out. donate: the old state is given up.
    """
    donated = (0,) if donate else ()
    if layout == "pmap":
        devices = jax.local_device_count()
        function = functools.partial(step, axis="data")
        function = jax.pmap(function, axis_name="data", in_axes=(None, 0), out_axes=None, donate_argnums=donated)
        if jax.process_count() > 1:
            function = _returns_global(function, out)
        return CompiledStep(
            function, lambda batch: {k: np.reshape(v, (devices, -1) + v.shape[1:]) for k, v in batch.items()}
        )

    def traced(state, batch):
        with use(mesh, rules):
            return step(state, batch)

    replicated, rows = NamedSharding(mesh, PartitionSpec()), batch_sharding(mesh)
    function = jax.jit(traced, in_shardings=(shardings, rows), out_shardings=(out, replicated), donate_argnums=donated)
    return CompiledStep(
        function, lambda batch: {k: jax.make_array_from_process_local_data(rows, v) for k, v in batch.items()}
    )


def _returns_global(step: Callable, shardings: PyTree) -> Callable:
    """pmap's state is of one process alone and could not be saved: gives its buffers as arrays of all processes."""

    def share(x, sharding):
        return jax.make_array_from_single_device_arrays(x.shape, sharding, [s.data for s in x.addressable_shards])

    def shared(state, batch):
        state, metrics = step(state, batch)
        return jax.tree.map(share, state, shardings), metrics

    return shared
