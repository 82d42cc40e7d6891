"""What one device does in a step: matrix-product FLOPs, traffic with its main memory and collectives, counted in the
compiled program.

The compiler's own `cost_analysis` counts a loop's body once, whatever the number of its turns, and a scanned stack of
layers is such a loop. Here the program is walked as it will run, every loop as often as its condition says: that needs
no second compilation, covers loops in loops (microbatches around layers), and sees what the partitioner replicated and
what the backward pass computes again.
"""

import dataclasses
import functools
import math
import re

import numpy as np

from ptjax.plan.groups import first_group
from ptjax.plan.hlo import Array, Computation, Instruction, Program

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute")
# These move nothing: they name, or stand for what another instruction does.
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id"}
FREE |= {"opt-barrier", "domain", "while", "conditional", "call", "async-start", "async-update", "async-done"}
# Custom calls of the compiler's that only allot memory or rename it.
FREE_CALLS = {"AllocateBuffer", "ConcatBitcast", "X64Combine", "AssumeGatherIndicesInBound", "Sharding"}


@dataclasses.dataclass(frozen=True)
class Work:
    """An instruction that runs `times` times a step. flops: of its matrix products; bytes: to and from main memory,
    each time. open: it is in a loop whose number of turns only the data decides, and which `times` takes to be one."""

    origin: str
    times: float
    flops: float
    bytes: float
    open: bool = False

    @property
    def again(self) -> bool:
        """Whether the backward pass computes it again."""
        return "rematted_computation" in self.origin


@dataclasses.dataclass(frozen=True)
class Collective:
    """kind: all-gather, ... bytes: of what one device puts in, of all-gathers of what it gets out, each time.
    group: numbers of the devices that take part together, counted in the order of the mesh."""

    kind: str
    origin: str
    times: int
    bytes: float
    group: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one device and one step. loops: where those come from whose number of turns only the data decides. turns: how
    many each of them is taken to have. kernels: that do not say what they compute, of which nothing is counted."""

    work: tuple[Work, ...]
    collectives: tuple[Collective, ...]
    loops: tuple[str, ...] = ()
    kernels: tuple[str, ...] = ()
    turns: float = 1.0

    @property
    def flops(self) -> float:
        return sum(w.times * w.flops for w in self.work)

    @property
    def bytes(self) -> float:
        return sum(w.times * w.bytes for w in self.work)

    def balanced(self, flops: float) -> "Cost":
        """The same, with so many turns of the open loops that what is not computed again comes to `flops`: those of the
        formula, for a mixture whose experts are used evenly."""
        once = [w for w in self.work if not w.again]
        closed = sum(w.times * w.flops for w in once if not w.open)
        each = sum(w.times * w.flops for w in once if w.open)
        turns = max((flops - closed) / each, 1.0) if each else 1.0
        work = (dataclasses.replace(w, times=w.times * turns) if w.open else w for w in self.work)
        return dataclasses.replace(self, work=tuple(work), turns=turns)


def cost(program: Program, devices: int) -> Cost:
    """Of a program that is compiled for so many devices."""
    walk = _Walk(program, devices)
    walk.visit(program.entry, 1)
    unique = lambda names: tuple(dict.fromkeys(names))
    return Cost(tuple(walk.work), tuple(walk.collectives.values()), unique(walk.loops), unique(walk.kernels))


class _Walk:
    def __init__(self, program: Program, devices: int):
        self.program, self.devices = program, devices
        self.work, self.collectives, self.loops, self.kernels = [], {}, [], []
        self.open = False

    def visit(self, name: str, times: int) -> None:
        """Counts what a computation does that runs so many times."""
        own = self.program.computations[name]
        for instruction in own.instructions.values():
            op = instruction.opcode
            if op == "while":
                self._loop(instruction, times)
            elif op in ("call", "async-start"):
                called = instruction.attribute("to_apply") or instruction.attribute("calls")
                self.visit(called, times)
            elif op == "conditional":
                self._costliest_branch(instruction, times)
            else:
                self._instruction(own, instruction, times)

    def _loop(self, instruction: Instruction, times: int) -> None:
        turns, before = trips(self.program, instruction), self.open
        if turns is None:
            self.loops.append(instruction.origin or instruction.name)
            self.open = True
        self.visit(instruction.attribute("body"), times * (1 if turns is None else turns))
        self.open = before

    def _costliest_branch(self, instruction: Instruction, times: int) -> None:
        names = re.findall(r"%([\w.\-]+)", instruction.attribute("branch_computations") or "")
        names = names or [instruction.attribute(f"{which}_computation") for which in ("true", "false")]
        walks = [_Walk(self.program, self.devices) for _ in names]
        for walk, name in zip(walks, names):
            walk.open = self.open
            walk.visit(name, times)
        most = max(walks, key=lambda walk: sum(w.times * (w.flops + w.bytes) for w in walk.work))
        self.work += most.work
        self.collectives |= most.collectives
        self.loops += most.loops
        self.kernels += most.kernels

    def _instruction(self, own: Computation, instruction: Instruction, times: int) -> None:
        fused = self.program.computations.get(instruction.attribute("calls") or "")
        self._collectives(own, instruction, fused, times)
        flops = self._flops(own, instruction)
        moved = self._bytes(own, instruction, fused)
        if flops or moved:
            self.work.append(Work(instruction.origin, times, flops, moved, self.open))

    # --- collectives ---

    def _collectives(self, own: Computation, instruction: Instruction, fused: Computation | None, times: int) -> None:
        if kind := _collective(instruction):
            self._add(own.name, own, instruction, kind, times)
        for inner in fused.instructions.values() if fused else ():
            if kind := _collective(inner):
                # TPUs have a reduce-scatter as a fusion of an all-reduce and of the slice that is kept.
                kind = "reduce-scatter" if fused.name.startswith("all-reduce-scatter") else kind
                self._add(own.name, fused, inner, kind, times)

    def _add(self, where: str, own: Computation, instruction: Instruction, kind: str, times: int) -> None:
        """One that runs beside products is written into several fusions, which share its channel: counted once."""
        group = first_group(instruction.attributes, self.devices)
        if len(group) < 2:
            return
        size = sum(array.bytes for operand in own.operands(instruction) for array in operand.arrays)
        size *= len(group) if kind == "all-gather" else 1
        channel = instruction.attribute("channel_id") or instruction.name
        found = Collective(kind, instruction.origin, times, size, group)
        self.collectives.setdefault((where, channel), found)

    # --- FLOPs ---

    def _flops(self, own: Computation, instruction: Instruction) -> float:
        op = instruction.opcode
        if op == "fusion":
            return self._fused_flops(instruction.attribute("calls"))
        if op == "dot":
            return dot_flops(instruction, _array(own, instruction, 0))
        if op == "convolution":
            return convolution_flops(instruction, _array(own, instruction, 0), _array(own, instruction, 1))
        if op == "custom-call":
            return self._kernel_flops(instruction)
        return 0.0

    def _fused_flops(self, name: str) -> float:
        fused = self.program.computations[name]
        return sum(self._flops(fused, inner) for inner in fused.instructions.values())

    def _kernel_flops(self, instruction: Instruction) -> float:
        """As a Pallas kernel's author says."""
        if "tpu_custom_call" not in (instruction.attribute("custom_call_target") or instruction.attributes):
            return 0.0
        said = re.search(r'"cost_estimate":\{[^}]*"flops":"?(\d+)', instruction.attributes)
        if said is None:
            self.kernels.append(instruction.origin or instruction.name)
        return float(said[1]) if said else 0.0

    # --- bytes ---

    def _bytes(self, own: Computation, instruction: Instruction, fused: Computation | None) -> float:
        """To and from main memory. Of what is only sliced, the slice; of what is updated in place, the update."""
        op, outputs = instruction.opcode, instruction.arrays
        if op in FREE or op.endswith("-done") or op == "custom-call" and _target(instruction) in FREE_CALLS:
            return 0.0
        operands = own.operands(instruction)
        if op in ("slice", "dynamic-slice", "gather"):
            return _main(operands[0].arrays[:1]) and _main(outputs, any_space=True) + _main(outputs)
        if op == "slice-start":
            return _main(outputs[1:2], any_space=True)
        if op in ("dynamic-update-slice", "scatter"):
            update = operands[1 if op == "dynamic-update-slice" else -1].arrays
            return _main(update) + (_main(outputs) and _main(update, any_space=True))
        if op == "copy-start":
            return _main(outputs[:2])
        if fused is None:
            return sum(_main(operand.arrays) for operand in operands) + _main(outputs)
        _, _, aliased = instruction.attributes.partition("output_to_operand_aliasing=")
        pairs = re.findall(r"\{(\d*)\}: \((\d+), \{\}\)", aliased)
        passed = {int(output or 0) for output, _ in pairs}, {int(operand) for _, operand in pairs}
        total = sum(_read(self.program, fused, i) for i, _ in enumerate(operands) if i not in passed[1])
        return total + sum(size for i, size in enumerate(_written(self.program, fused)) if i not in passed[0])


def _collective(instruction: Instruction) -> str | None:
    kind = instruction.opcode.removesuffix("-start")
    return kind if kind in COLLECTIVES else None


def _target(instruction: Instruction) -> str:
    found = re.search(r'custom_call_target="([^"]*)"', instruction.attributes)
    return found[1] if found else ""


def _array(own: Computation, instruction: Instruction, number: int) -> Array:
    return own.instructions[instruction.operands[number]].arrays[0]


def _main(arrays: tuple[Array, ...], any_space: bool = False) -> float:
    return sum(array.bytes for array in arrays if any_space or array.space == 0)


def _read(program: Program, fused: Computation, number: int) -> float:
    """How much of an operand a fusion reads from main memory."""
    parameter = fused.parameter(number)
    if parameter is None:
        return 0.0
    whole = _main(parameter.arrays)
    return min(whole, _used(program, fused, parameter)) if whole else 0.0


def _used(program: Program, fused: Computation, source: Instruction) -> float:
    """Of an array in a fusion: the slices that are taken of it, or all."""
    total = 0.0
    for user in fused.users[source.name]:
        if user.opcode in ("dynamic-slice", "slice", "gather") and user.operands[0] == source.name:
            total += _main(user.arrays, any_space=True)
        elif user.opcode == "bitcast":
            total += _used(program, fused, user)
        elif user.opcode == "fusion":  # TPUs have fusions in fusions
            inner = program.computations[user.attribute("calls")]
            places = [i for i, name in enumerate(user.operands) if name == source.name]
            total += sum(_used(program, inner, inner.parameter(i)) for i in places)
        elif user.opcode in ("dynamic-update-slice", "scatter") and user.operands[0] == source.name:
            total += 0.0
        elif user.opcode != "tuple":  # a tuple passes it on
            return math.inf
    return total


def _written(program: Program, fused: Computation) -> list[float]:
    """Bytes of each of a fusion's outputs."""
    root = fused.root
    outputs = fused.operands(root) if root.opcode == "tuple" else [root]
    return [_one_written(program, fused, output) for output in outputs]


def _one_written(program: Program, fused: Computation, output: Instruction) -> float:
    while output.opcode == "bitcast":
        output = fused.operands(output)[0]
    if output.opcode == "parameter":
        return 0.0
    if output.opcode == "fusion":
        return sum(_written(program, program.computations[output.attribute("calls")]))
    if output.opcode in ("dynamic-update-slice", "scatter"):
        update = fused.operands(output)[1 if output.opcode == "dynamic-update-slice" else -1]
        return _main(output.arrays) and _main(update.arrays, any_space=True)
    return _main(output.arrays)


# --- loops ---


def trips(program: Program, loop: Instruction) -> int | None:
    """How often a loop turns; None where that is not a constant. Loops count up from 0: those of jax by 1, and those
    that the compiler makes of a product and the gathering of its operand by as many steps as it wrote into one turn."""
    if known := re.search(r'"known_trip_count":\{"n":"?(\d+)', loop.attributes):
        return int(known[1])
    condition = program.computations[loop.attribute("condition")]
    test = condition.root
    while test.opcode == "fusion":  # CPUs wrap the comparison
        condition = program.computations[test.attribute("calls")]
        test = condition.root
    if test.opcode != "compare" or test.attribute("direction") != "LT" or len(test.operands) != 2:
        return None
    limit = condition.instructions[test.operands[1]]
    while limit.opcode in ("copy", "bitcast", "convert"):
        limit = condition.instructions[limit.operands[0]]
    if limit.opcode != "constant":
        return None
    return -(-int(limit.argument) // _step(program, loop, condition.instructions[test.operands[0]]))


def _step(program: Program, loop: Instruction, counter: Instruction) -> int:
    """By how much a turn raises the loop's counter, which is a part of its state; 1 where that cannot be read."""
    body, number = program.computations[loop.attribute("body")], counter.attribute("index")
    if body.root.opcode != "tuple" or number is None:
        return 1
    raised = body.operands(body.root)[int(number)]
    constants = [o for o in body.operands(raised) if o.opcode == "constant"]
    return int(constants[0].argument) if raised.opcode == "add" and constants else 1


# --- matrix products ---


def dot_flops(instruction: Instruction, left: Array) -> float:
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
    inner = math.prod(left.dims[int(i)] for i in contracted[1].split(",") if i) if contracted else 1
    return 2.0 * math.prod(instruction.arrays[0].dims) * inner


def convolution_flops(instruction: Instruction, left: Array, right: Array) -> float:
    """As XLA's `HloCostAnalysis` counts: products with padding and with the holes of a dilation are none. TPUs have
    batched matrix products as convolutions, in which most of a window is padding."""
    inputs, kernel, output = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes).groups()
    sizes = lambda array, labels: dict(zip(labels, array.dims))
    source, window, result = sizes(left, inputs), sizes(right, kernel), sizes(instruction.arrays[0], output)
    spatial = sorted(label for label in inputs if label.isdigit())
    given = re.search(r"window=\{([^}]*)\}", instruction.attributes)
    words = dict(word.split("=") for word in given[1].split()) if given else {}
    listed = {name: value.split("x") for name, value in words.items()}
    pairs = 1
    for i, label in enumerate(spatial):
        whole = lambda name: int(listed[name][i]) if name in listed else 1
        low = int(listed["pad"][i].split("_")[0]) if "pad" in listed else 0
        shape = (source[label], window[label], result[label])
        pairs *= _pairs(*shape, whole("stride"), low, whole("lhs_dilate"), whole("rhs_dilate"))
    groups = int(instruction.attribute("batch_group_count") or 1)
    return 2.0 * window["i"] * result["f"] * result["b"] * pairs / groups


@functools.lru_cache(maxsize=10_000)
def _pairs(inputs: int, window: int, outputs: int, stride: int, low: int, hole: int, spread: int) -> int:
    """How many pairs of an output and a place in the window meet an input, along one axis."""
    place = np.arange(outputs)[:, None] * stride - low + np.arange(window)[None, :] * spread
    return int(((place >= 0) & (place <= (inputs - 1) * hole) & (place % hole == 0)).sum())
