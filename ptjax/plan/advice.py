"""What would make a step fit, worked out from what it keeps rather than by compiling again.

Bytes of a device are those of the state, which a mesh divides by arithmetic; those that go with the parameters
(gradients, updates); and those that go with the rows: what the forward pass leaves for the backward pass, which jax
tells of each policy of remat without compiling, and what one layer works with.
"""

import dataclasses
from collections.abc import Iterator

import chz
import jax
import jax.numpy as jnp

from ptjax import partition
from ptjax.config import UserError
from ptjax.plan.memory import held
from ptjax.plan.subject import Subject
from ptjax.train import Experiment

MARGIN = 0.92  # of the memory that is there: the arithmetic is not exact, and memory falls to pieces
REMAT = ("none", "dots", "full")


@dataclasses.dataclass(frozen=True)
class Suggestion:
    """overrides: for the command line. bytes: of one device, estimated. price: what it costs in speed."""

    overrides: tuple[str, ...]
    bytes: float
    price: str


def suggest(subject: Subject, temporaries: float, available: float, most: int = 3) -> tuple[Suggestion, ...]:
    """The changes that make it fit, those of the fewest settings first. temporaries: bytes that the compiler wanted."""
    room = available * MARGIN
    state, parameters = held((subject.state, subject.batch)), held(subject.state.params)
    # Gradients and updates in float32, as far as they leave room for activations.
    fixed = min(2 * parameters, temporaries / 2)
    of_rows = temporaries - fixed
    kept = _kept(subject)
    now = subject.experiment.model.remat
    found = []
    for fsdp, divided in _meshes(subject):
        for policy in REMAT[REMAT.index(now) :]:
            for parts in _divisors(subject.rows):
                rows = of_rows * kept[policy] / kept[now] / parts
                sums = parameters / divided if parts > 1 and subject.experiment.accumulation == 1 else 0
                total = (state + fixed) / divided + sums + rows
                if total <= room:
                    found.append(_suggestion(subject, fsdp, policy, parts, total))
                    break
    found.sort(key=lambda s: len(s.overrides))  # and among equals as found: less recomputation first
    return tuple(found[:most])


def _suggestion(subject: Subject, fsdp: int, policy: str, parts: int, total: float) -> Suggestion:
    e, overrides, prices = subject.experiment, [], []
    if fsdp != subject.mesh.shape["fsdp"]:
        overrides += [f"mesh.fsdp={fsdp}", "mesh.data=-1"]
        prices.append("parameters are gathered over more chips")
    if policy != e.model.remat:
        overrides.append(f"model.remat={policy}")
        prices.append({"dots": "element-wise work is done twice", "full": "a third more FLOPs"}[policy])
    if parts > 1:
        overrides.append(f"accumulation={e.accumulation * parts}")
        prices.append(f"{e.accumulation * parts} microbatches of {subject.rows // parts} rows a chip")
    return Suggestion(tuple(overrides), total, ", ".join(prices))


def _meshes(subject: Subject) -> Iterator[tuple[int, int]]:
    """(fsdp, by how much more the state is divided) for this mesh, and for those with more fsdp and less data."""
    shape = subject.mesh.shape
    yield shape["fsdp"], 1
    for more in _divisors(shape["data"]):
        if more > 1 and _divides(subject.experiment, subject, shape["fsdp"] * more):
            yield shape["fsdp"] * more, more


def _divides(experiment: Experiment, subject: Subject, fsdp: int) -> bool:
    mesh = chz.replace(experiment.mesh, fsdp=fsdp, data=-1)
    try:
        made = partition.make_mesh(mesh, list(subject.mesh.devices.flat))
        subject.learner.shardings(made)
    except UserError:
        return False
    return True


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def _kept(subject: Subject) -> dict[str, float]:
    """Bytes a row, by policy of remat: what waits for the backward pass, and what one layer works with."""
    waiting = {policy: _residuals(subject, policy) for policy in REMAT}
    return {policy: size + waiting["none"] / subject.experiment.model.layers for policy, size in waiting.items()}


def _residuals(subject: Subject, policy: str) -> float:
    """Bytes a row that the forward pass leaves for the backward pass, before anything is divided or fused."""
    experiment = chz.replace(subject.experiment, model=chz.replace(subject.experiment.model, remat=policy))
    learner = dataclasses.replace(subject.learner, experiment=experiment)
    parts = partition.batch_shards(subject.mesh)

    def leftover(params, batch):
        state = subject.state
        with partition.use(subject.mesh, experiment.mesh.rules):
            zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state.replace(params=None, opt_state=None))
            micro = learner.corrupted(zeros, batch)
            loss = lambda params: sum(learner._losses(params, micro, jax.random.key(0))[0].totals.values())
            return jax.vjp(loss, params)[1]

    def size(rows: int) -> float:
        batch = {k: jax.ShapeDtypeStruct((rows, *v.shape[1:]), v.dtype) for k, v in subject.batch.items()}
        leaves = jax.tree.leaves(jax.eval_shape(leftover, subject.state.params, batch))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

    return (size(2 * parts) - size(parts)) / parts
