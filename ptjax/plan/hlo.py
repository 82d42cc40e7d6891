"""Reads a compiled program's text (HLO): its computations, and the instructions and shapes in them.

Its own small reader, since neither jax nor jaxlib offers the instructions of a compiled program. What it reads is
what `jax.stages.Compiled.as_text` prints; the grammar is that of XLA's `hlo_parser.h`.
"""

import dataclasses
import functools
import re

WIDTHS = {"pred": 1, "s4": 0.5, "u4": 0.5, "bf16": 2, "c64": 8, "c128": 16, "token": 0, "opaque": 0}

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%([\w.\-]+) = (.*)$")
_ARRAY = re.compile(r"(\w+)\[([\d,<=]*)\](?:\{([^}]*)\})?")


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of a shape. space: the memory it lives in, 0 for the device's main one (HBM)."""

    dtype: str
    dims: tuple[int, ...]
    space: int = 0

    @property
    def bytes(self) -> float:
        """Without the padding of its layout."""
        digits = re.search(r"\d+", self.dtype)
        width = WIDTHS.get(self.dtype) if self.dtype in WIDTHS else int(digits[0]) / 8 if digits else 0
        return _product(self.dims) * width


@dataclasses.dataclass(frozen=True)
class Instruction:
    """name = shape opcode(operands), attributes. arrays: of its shape, those of a tuple in their order."""

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    argument: str  # what stands between the parentheses: a constant's value, a parameter's number
    attributes: str
    root: bool = False

    def attribute(self, name: str) -> str | None:
        """The value of an attribute that is a name or a number, or a list in braces."""
        found = re.search(rf"(?:^|[ ,]){name}=(\{{[^}}]*\}}|[%\w.\-]+)", self.attributes)
        return found and found[1].lstrip("%")

    @property
    def origin(self) -> str:
        """Where in the Python program it comes from, as jax names it; empty where the compiler made it."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""


@dataclasses.dataclass(frozen=True, eq=False)
class Computation:
    name: str
    instructions: dict[str, Instruction]

    @functools.cached_property
    def root(self) -> Instruction:
        return next(i for i in self.instructions.values() if i.root)

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """Name of an instruction -> those that read it."""
        users = {name: [] for name in self.instructions}
        for instruction in self.instructions.values():
            for name in dict.fromkeys(instruction.operands):
                users.setdefault(name, []).append(instruction)
        return users

    def parameter(self, number: int) -> Instruction | None:
        named = (i for i in self.instructions.values() if i.opcode == "parameter" and i.argument == str(number))
        return next(named, None)

    def operands(self, instruction: Instruction) -> list[Instruction]:
        return [self.instructions[name] for name in instruction.operands if name in self.instructions]


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    computations: dict[str, Computation]
    entry: str

    @classmethod
    def parse(cls, text: str) -> "Program":
        """Of what `as_text` of a compiled function gives. Raises ValueError where that is no such text."""
        computations, entry, lines = {}, None, None
        for line in re.sub(r"/\*.*?\*/", "", text).splitlines():
            if lines is None:
                if head := _COMPUTATION.match(line):
                    lines = []
                    entry = head[2] if head[1] else entry
            elif re.match(r"\}($|, execution_thread)", line):
                found = [_INSTRUCTION.match(one) for one in lines]
                instructions = [_instruction(one[2], one[3], bool(one[1])) for one in found]
                computations[head[2]] = Computation(head[2], {i.name: i for i in instructions})
                lines = None
            elif _INSTRUCTION.match(line):
                lines.append(line)
            else:  # what a kernel says of itself may be written in several
                lines[-1] += " " + line
        if entry is None:
            raise ValueError("this is not the text of a compiled program: it has no ENTRY")
        return cls(computations, entry)


def _instruction(name: str, text: str, root: bool) -> Instruction:
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    shape, rest = text[:end], text[end:].lstrip()
    opcode, _, _ = rest.partition("(")
    close = _closing(rest, len(opcode))
    argument, attributes = rest[len(opcode) + 1 : close], rest[close + 1 :].lstrip(", ")
    operands = tuple(re.findall(r"%([\w.\-]+)", argument))
    return Instruction(name, opcode, arrays(shape), operands, argument, attributes, root)


def _closing(text: str, start: int) -> int:
    """Where the parenthesis that opens at `start` closes."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i
    raise ValueError(f"a parenthesis does not close: {text[:80]}")


@functools.lru_cache(maxsize=100_000)
def arrays(shape: str) -> tuple[Array, ...]:
    """Of `bf16[4,8]{1,0:T(8,128)S(1)}`, or of a tuple of such."""
    found = []
    for dtype, dims, layout in _ARRAY.findall(shape):
        space = re.search(r"S\((\d+)\)", layout)
        sizes = tuple(int(size.lstrip("<=")) for size in dims.split(",") if size)
        found.append(Array(dtype, sizes, int(space[1]) if space else 0))
    return tuple(found)


def _product(sizes) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result
