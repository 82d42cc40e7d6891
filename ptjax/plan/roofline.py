"""How long a step takes at best: what it computes and moves, over the peaks of the chip."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from ptjax.plan.chips import Chip
from ptjax.plan.cost import Collective, Cost


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of a step. compute: FLOPs over the peak. memory: bytes over HBM's bandwidth. work: instruction by
    instruction the larger of the two, since they run one after another. interconnect: all collectives.

    The step lies between `overlapped`, where every collective runs beside the work, and `exposed`, where none does.
    """

    compute: float
    memory: float
    work: float
    interconnect: float

    @property
    def overlapped(self) -> float:
        return max(self.work, self.interconnect)

    @property
    def exposed(self) -> float:
        return self.work + self.interconnect


def times(cost: Cost, chip: Chip, mesh: jax.sharding.Mesh) -> Times:
    devices = list(mesh.devices.flat)
    return Times(
        cost.flops / chip.flops,
        cost.bytes / chip.hbm_bandwidth,
        sum(w.times * max(w.flops / chip.flops, w.bytes / chip.hbm_bandwidth) for w in cost.work),
        sum(c.times * seconds(c, chip, devices) for c in cost.collectives),
    )


def seconds(collective: Collective, chip: Chip, devices: Sequence[jax.Device]) -> float:
    """Of one collective, by the formulas of the scaling book (Austin et al., 2025, "Sharded matrices"): a ring passes
    on all that the others have, along all axes of the torus that the group spans at once; an all-reduce does so twice;
    of an all-to-all a quarter of that passes the busiest link. Latency is not counted."""
    share = (len(collective.group) - 1) / len(collective.group) * collective.bytes
    if collective.kind == "collective-permute":
        return collective.bytes / chip.link
    along = bandwidth(collective.group, chip, devices)
    if collective.kind == "all-reduce":
        return 2 * share / along
    if collective.kind in ("all-to-all", "ragged-all-to-all"):
        return max(len(collective.group) / 4, 1) * share / along
    return share / along


def bandwidth(group: Sequence[int], chip: Chip, devices: Sequence[jax.Device]) -> float:
    """Bytes a second that a chip can send within its group: both ways round where an axis is a ring, else one."""
    coordinates = np.array([devices[number].coords for number in group])
    sides = np.array([device.coords for device in devices]).max(axis=0) + 1
    links = 0
    for axis, side in enumerate(sides):
        if len(set(coordinates[:, axis])) > 1:
            links += 2 if side % chip.ring == 0 else 1
    return max(links, 1) * chip.link


def axes_of(group: Sequence[int], mesh: jax.sharding.Mesh) -> tuple[str, ...]:
    """The axes of the mesh along which the devices of a group differ."""
    places = np.array(np.unravel_index(np.array(group), mesh.devices.shape))
    return tuple(name for name, along in zip(mesh.axis_names, places) if len(set(along)) > 1)
