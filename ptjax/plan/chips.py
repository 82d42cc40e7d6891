"""What TPU chips can do at best: the one table of peaks, and how their chips are joined."""

import dataclasses

from ptjax.config import UserError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """flops: a second, of bfloat16 products (float32 ones are done in bfloat16 too, unless a precision is asked for).
    hbm: bytes of memory; hbm_bandwidth: bytes a second. link: bytes a second and direction of one link to a neighbour.
    axes: dimensions of the torus. ring: an axis of the slice is closed to a ring where its length is a multiple of it.
    pod: chips that can be joined. kind: as jax names the device.
    """

    name: str
    kind: str
    flops: float
    hbm: float
    hbm_bandwidth: float
    link: float
    axes: int
    ring: int
    pod: int


# Peaks, memory and pods: https://docs.cloud.google.com/tpu/docs/v4, /v5e, /v5p and /v6e, tables of specifications, read
# on 22 November 2026. Links, and where rings are: https://jax-ml.github.io/scaling-book/tpus, "TPU specs" (Austin et
# al., 2025), whose figures are a tenth below those of the data sheets (v5p: 6 links of 100 GB/s each way).
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", "TPU v4", 275e12, 32 * GIB, 1200e9, 45e9, axes=3, ring=4, pod=4096),
        Chip("v5e", "TPU v5 lite", 197e12, 16 * GIB, 819e9, 45e9, axes=2, ring=16, pod=256),
        Chip("v5p", "TPU v5", 459e12, 95 * GIB, 2765e9, 90e9, axes=3, ring=4, pod=8960),
        Chip("v6e", "TPU v6 lite", 918e12, 32 * GIB, 1640e9, 90e9, axes=2, ring=16, pod=256),
    )
}


def of_kind(kind: str) -> Chip | None:
    """The chip that jax names so; None for any other device, whose peaks nobody has written down here."""
    return next((chip for chip in CHIPS.values() if chip.kind == kind), None)


def slice_of(topology: str) -> tuple[Chip, tuple[int, ...]]:
    """The chip and the shape that `v5p:8x16x16` names. Raises UserError for what no such slice can be."""
    name, _, shape = topology.partition(":")
    if name not in CHIPS:
        raise UserError(
            f"--topology={topology}: there is no chip {name!r}; there are {', '.join(CHIPS)}, as in v5e:4x4"
        )
    chip, example = CHIPS[name], "x".join(["4"] * CHIPS[name].axes)
    sizes = shape.split("x")
    if len(sizes) != chip.axes or not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise UserError(
            f"--topology={topology}: the chips of a {name} stand in {chip.axes} dimensions, as in {name}:{example}"
        )
    sides = tuple(map(int, sizes))
    chips = 1
    for side in sides:
        chips *= side
    if chips > chip.pod:
        raise UserError(f"--topology={topology}: these are {chips:,} chips, and a pod of {name} has {chip.pod:,}")
    if chips > 1 and any(side % 2 for side in sides[:2]):
        raise UserError(
            f"--topology={topology}: hosts have 2x2 chips, so the first two sides are even, as in {name}:{example}"
        )
    return chip, sides
