"""`plan`: what a step costs on a mesh of chips, before there is one."""

import contextlib
import dataclasses
import importlib.metadata
import time

import jax

from ptjax.plan import advice, memory, roofline
from ptjax.plan.chips import Chip, of_kind
from ptjax.plan.cost import Cost, cost
from ptjax.plan.hlo import Program
from ptjax.plan.subject import Subject
from ptjax.plan.topology import devices_of, libtpu_version
from ptjax.summary import count
from ptjax.train import Experiment


@dataclasses.dataclass(frozen=True)
class Traffic:
    """All collectives of a kind over the same axes of the mesh. count, bytes and seconds: of one device and a step."""

    kind: str
    axes: tuple[str, ...]
    group: int
    count: int
    bytes: float
    seconds: float | None


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a step costs each device; bytes and seconds of one device.

    memory: by kind. available: what a program may have of the chip's memory; None where that is not known.
    fits: whether it compiled; where it did not, `memory` has the temporaries that the compiler wanted, `suggestions` is
    what to change, and there is no cost. flops: of the whole step by the formula. cost: of the compiled program, on one
    device. times: by the chip's peaks; None where those are not known.
    """

    model: str
    objective: str
    parameters: int
    vocabulary: str
    rows: int
    microbatch: int
    length: int
    topology: str | None
    chip: Chip | None
    devices: int
    device: str
    mesh: dict[str, int]
    versions: dict[str, str]
    memory: dict[str, float]
    available: float | None
    fits: bool
    flops: float
    cost: Cost | None = None
    traffic: tuple[Traffic, ...] = ()
    times: roofline.Times | None = None
    compile_seconds: float = 0.0
    suggestions: tuple[advice.Suggestion, ...] = ()

    @property
    def used(self) -> float:
        return sum(self.memory.values())

    def mfu(self, seconds: float) -> float:
        """Of a step that takes so long: the formula's FLOPs over what the chips could do in that time."""
        return self.flops / self.devices / seconds / self.chip.flops

    def tokens_per_second(self, seconds: float) -> float:
        return self.rows * self.length / seconds

    def as_json(self) -> dict:
        """All of it, as plain values."""
        plain = dataclasses.asdict(dataclasses.replace(self, cost=None))
        del plain["cost"]
        plain["used"] = self.used
        if self.cost:
            plain["compiled"] = {
                "flops": self.cost.flops,
                "bytes": self.cost.bytes,
                "turns_of_open_loops": self.cost.turns if self.cost.loops else None,
                "kernels_not_counted": list(self.cost.kernels),
            }
        if self.times:
            bounds = {"overlapped": self.times.overlapped, "exposed": self.times.exposed}
            plain["step"] = {
                name: {"seconds": s, "mfu": self.mfu(s), "tokens_per_second": self.tokens_per_second(s)}
                for name, s in bounds.items()
            }
        return plain


def plan(experiment: Experiment, topology: str | None = None) -> Plan:
    """Compiles the experiment's first step for a slice such as 'v5p:8x16x16', or for the devices that are here (None).

    Allocates nothing on a device. Where the step does not fit the memory of a chip, the plan says so and what would.
    Raises UserError where sizes do not fit each other or the mesh, and where there is no such slice or no compiler.
    """
    if topology is None:
        devices = jax.devices()
        chip = of_kind(devices[0].device_kind)
    else:
        chip, devices = devices_of(topology)
    subject = Subject.open(experiment, devices)
    made = _facts(subject, topology, chip)
    start = time.perf_counter()
    with contextlib.nullcontext() if topology is None else _nothing_cached():
        compiled = _compiled(subject)
    if isinstance(compiled, memory.Exhausted):
        return _too_large(made, subject, compiled)
    made = dataclasses.replace(made, compile_seconds=time.perf_counter() - start)
    found = cost(Program.parse(compiled.as_text()), len(devices)).balanced(made.flops / len(devices))
    return dataclasses.replace(
        made,
        memory=memory.of_step(compiled, subject.state, subject.batch),
        cost=found,
        traffic=_traffic(found, subject.mesh, chip),
        times=chip and roofline.times(found, chip, subject.mesh),
    )


@contextlib.contextmanager
def _nothing_cached():
    """What is compiled for devices that are not here can be written to jax's cache, but not read again."""
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1e9)
    try:
        yield
    finally:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", before)


def _compiled(subject: Subject) -> jax.stages.Compiled | memory.Exhausted:
    try:
        return subject.step.lower(subject.state, subject.batch).compile()
    except jax.errors.JaxRuntimeError as error:
        if exhausted := memory.Exhausted.read(str(error)):
            return exhausted
        raise


def _facts(subject: Subject, topology: str | None, chip: Chip | None) -> Plan:
    e, mesh = subject.experiment, subject.mesh
    versions = {"jax": jax.__version__, "jaxlib": importlib.metadata.version("jaxlib")}
    if topology:
        versions["libtpu"] = libtpu_version()
    return Plan(
        model=type(e.model).__name__,
        objective=type(e.objective).__name__,
        parameters=count(subject.learner.params_shape),
        vocabulary=f"{subject.learner.vocab.size:,} pieces, {subject.vocabulary}",
        rows=e.data.batch_size,
        microbatch=subject.rows,
        length=e.data.length,
        topology=topology,
        chip=chip,
        devices=mesh.size,
        device=mesh.devices.flat[0].device_kind,
        mesh=dict(mesh.shape),
        versions=versions,
        memory=memory.of_state(subject.state, subject.batch),
        available=chip and chip.hbm,
        fits=True,
        flops=e.flops_per_step(subject.learner.vocab),
    )


def _too_large(made: Plan, subject: Subject, exhausted: memory.Exhausted) -> Plan:
    state = sum(made.memory.values())
    temporaries = exhausted.needed if exhausted.of == "temporaries" else max(exhausted.needed - state, 0)
    return dataclasses.replace(
        made,
        memory=made.memory | {"temporaries": temporaries},
        available=exhausted.available,
        fits=False,
        suggestions=advice.suggest(subject, temporaries, exhausted.available),
    )


def _traffic(found: Cost, mesh: jax.sharding.Mesh, chip: Chip | None) -> tuple[Traffic, ...]:
    """The largest first."""
    devices, sums = list(mesh.devices.flat), {}
    for c in found.collectives:
        key = c.kind, roofline.axes_of(c.group, mesh), len(c.group)
        seconds = c.times * roofline.seconds(c, chip, devices) if chip else None
        before = sums.get(key, Traffic(*key, 0, 0.0, chip and 0.0))
        sums[key] = Traffic(
            *key, before.count + c.times, before.bytes + c.times * c.bytes, chip and before.seconds + seconds
        )
    return tuple(sorted(sums.values(), key=lambda t: -t.bytes))
