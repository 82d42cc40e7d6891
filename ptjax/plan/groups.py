"""Which devices take part in a collective, in the three ways in which a compiled program writes it."""

import re

import numpy as np


def first_group(attributes: str, devices: int) -> tuple[int, ...]:
    """Numbers of the devices of a collective's first group, counted in the order of the mesh. All groups of one
    collective have the same shape.

    attributes: of the instruction: `replica_groups={{0,1},{2,3}}`, an iota `replica_groups=[2,2]<=[4]`, or axes of a
    mesh, `replica_groups=mesh['a'=2,'b'=2] {'a'}`; or `source_target_pairs`, of which the first counts.
    """
    if pairs := re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", attributes):
        return int(pairs[1]), int(pairs[2])
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return tuple(map(int, listed[1].split(",")))
    if iota := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes):
        return tuple(_iota(iota[2], iota[3]).reshape(_sizes(iota[1]))[0].tolist())
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\](.*?)\{([^}]*)\}", attributes):
        return _of_mesh(*mesh.groups())
    return tuple(range(devices))


def _of_mesh(axes: str, order: str, chosen: str) -> tuple[int, ...]:
    """axes: 'a'=2,'b'=2. order: device_ids=([2,2]T(1,0)), or nothing. chosen: 'a', or a part of one, 'a':(1)2."""
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", axes)}
    permuted = re.search(r"\(\[([\d,]+)\](?:T\(([\d,]+)\))?\)", order)
    listed = re.search(r"device_ids=\(([\d,]+)\)", order)
    if permuted:
        ids = _iota(*permuted.groups())
    else:
        ids = np.array(_sizes(listed[1])) if listed else np.arange(np.prod(list(sizes.values())))
    # An axis of which only a part is chosen is three: what is before the part, the part, and what is behind it.
    shape, varying = [], []
    parts = {name: (before, part) for name, before, part in re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", chosen)}
    for name, size in sizes.items():
        before, part = parts.get(name, ("", ""))
        split = [int(before), int(part), size // int(before) // int(part)] if part else [size]
        if name in parts:
            varying.append(len(shape) + bool(part))
        shape += split
    index = tuple(slice(None) if i in varying else 0 for i in range(len(shape)))
    return tuple(ids.reshape(shape)[index].reshape(-1).tolist())


def _iota(sizes: str, transpose: str | None) -> np.ndarray:
    ids = np.arange(np.prod(_sizes(sizes))).reshape(_sizes(sizes))
    return ids.transpose(_sizes(transpose)) if transpose else ids


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))
