"""Hugging Face's folders, both ways: config.json and safetensors to a config and params of ours, and back.

What is read is proven first (`look`), and what is written is written whole or not at all. Both go tensor by tensor.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from ptjax.checkpoint import listed
from ptjax.config import UserError
from ptjax.interop.families import FAMILIES
from ptjax.interop.family import Family
from ptjax.interop.mark import check_target, write_config
from ptjax.interop.published import leaf_shapes, look
from ptjax.interop.tables import Entry, Table
from ptjax.interop.tensors import CODES, MAX_SHARD_BYTES, Writer, new_folder
from ptjax.models.base import TextModelConfig
from ptjax.objectives import Objective
from ptjax.types import PyTree


@dataclasses.dataclass(frozen=True)
class Loaded:
    """params: {"body": ..., "head": ..., whatever parts the files hold}, float32. theirs: config.json."""

    config: TextModelConfig
    params: PyTree
    family: Family
    theirs: dict[str, Any]
    rows: int
    left_out: tuple[str, ...]


def load(
    folder: str | Path,
    *,
    vocab_size: int | None = None,
    dtype: str = "float32",
    shardings: PyTree = None,
    only: Collection[str] | None = None,
) -> Loaded:
    """`look` and the weights."""
    found = look(folder, vocab_size=vocab_size, dtype=dtype, only=only)
    params = found.params(shardings)
    return Loaded(found.config, params, found.family, found.theirs, found.rows, found.left_out)


@dataclasses.dataclass(frozen=True)
class Written:
    """architecture: of the family, as what it was written. parts: of ours that it holds; new: those of it that ours
    lack, which transformers draws; left_out: of ours. parameters: how many numbers, in so many tensors and bytes."""

    family: str
    architecture: str
    parts: frozenset[str]
    new: frozenset[str]
    left_out: frozenset[str]
    parameters: int
    tensors: int
    bytes: int


def save(
    folder: str | Path,
    config: TextModelConfig,
    params: PyTree,
    *,
    rows: int,
    dtype: str = "float32",
    only: Collection[str] | None = None,
    described: dict[str, Any] | None = None,
    objective: Objective | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    beside: Callable[[Path], None] = lambda folder: None,
) -> Written:
    """Writes a folder that transformers opens, whole or not at all.

    Args:
      folder: new, empty, or one that this function has written before and nobody has changed.
      params: {"body": ..., "head": ...}; leaves are arrays, or whatever has a shape and becomes one by `np.asarray`,
        which happens to one leaf at a time (to those of one tensor at a time, where several make one).
      rows: of the vocabulary, without padding.
      dtype: of the tensors, float32, bfloat16 or float16; a finite number never becomes infinite.
      only: parts to write; None: all.
      described: more of config.json: ids of special tokens, None for those that the vocabulary lacks.
      objective: with what it was trained, for who imports it.
      beside: writes more files, a tokenizer's, into the folder it is given.

    Raises:
      UserError: a model, leaves or special tokens that have no counterpart there, and a folder that is somebody else's.
    """
    folder = Path(folder).expanduser().resolve()
    check_target(folder)
    family = family_of(config)
    if dtype not in CODES:
        raise UserError(f"dtype={dtype!r} is none of {', '.join(CODES)}")
    table, leaves = family.table(config), traverse_util.flatten_dict(params, sep="/")
    held = frozenset(path.partition("/")[0] for path in leaves)
    parts = held if only is None else frozenset(only)
    if unknown := parts - held:
        raise UserError(f"there is no {' and no '.join(sorted(unknown))} here: parts are {', '.join(sorted(held))}")
    leaves = {path: leaf for path, leaf in leaves.items() if path.partition("/")[0] in parts}
    shapes = leaf_shapes(family, config, parts & set(table.parts()), rows)
    entries = [entry for entry in table.entries if entry.top in parts]
    _check_leaves(family, entries, leaves, shapes)
    architecture, expected = _choose(family, table, parts)
    theirs = {"architectures": [architecture], "model_type": family.model_type, "dtype": dtype, "torch_dtype": dtype}
    described = described or {}
    family.check_special(described)
    # What the family says is so; where it says None, or nothing, there is room.
    theirs |= {key: value for key, value in described.items() if value is not None}
    theirs |= {k: v for k, v in family.describe(config, rows).items() if v is not None or k not in theirs}
    # transformers leaves the prefix out where there is nothing but the body.
    bare = architecture.endswith("Model") and not architecture.endswith("LMHeadModel")
    name_there = lambda name: name.removeprefix(table.prefix) if bare else name
    shape_there = lambda entry: entry.shape_there(shapes[entry.ours].shape[entry.stacked :], rows)
    groups = _groups(entries)
    tensors = {name_there(name): shape_there(group[0]) for group in groups for _, name in group[0].tensors()}
    with new_folder(folder) as temporary:
        writer = Writer(temporary, tensors, dtype, max_shard_bytes)
        for group in groups:
            _write(writer, group, [leaves[entry.ours] for entry in group], rows, name_there, shape_there(group[0]))
        writer.close()
        beside(temporary)
        write_config(temporary, theirs, objective)
        check_target(folder)  # a large model takes its time
    count = sum(math.prod(shape) for shape in tensors.values())
    return Written(
        family.model_type, architecture, parts, expected - parts, held - parts, count, len(tensors), writer.bytes
    )


def family_of(config: TextModelConfig) -> Family:
    """The family that `config` is exported as. Raises UserError where transformers has none."""
    for family in FAMILIES:
        if family.own(config):
            return family
    bodies = dict.fromkeys(family.body.__name__ for family in FAMILIES)
    raise UserError(f"transformers has no {type(config).__name__} like this one; it has {', '.join(bodies)}")


def _check_leaves(family: Family, entries: list[Entry], leaves: dict[str, Any], shapes: dict[str, Any]) -> None:
    """Raises UserError where `leaves` are not those of the entries, of these shapes; tables may have more padding."""
    if strange := sorted(leaves.keys() - shapes.keys()):
        rows = [f"{path} {list(leaves[path].shape)}" for path in strange]
        in_body = any(path.startswith("body/") for path in strange)
        way = "" if in_body else "\nTo write the body alone: only=('body',), which mains spell --only=body."
        raise UserError(f"transformers' {family.model_type} has no place for these leaves:\n{listed(rows)}{way}")
    rows = [f"{path}: missing" for path in sorted(shapes.keys() - leaves.keys())]
    for entry in entries:
        if entry.ours in leaves:
            there, here = tuple(leaves[entry.ours].shape), shapes[entry.ours].shape
            padded = entry.layout == "table" and there[0] >= here[0] and there[1:] == here[1:]
            if there != here and not padded:
                rows.append(f"{entry.ours}: {list(there)}, by the config {list(here)}")
    if rows:
        raise UserError(f"these parameters are not those of their config:\n{listed(rows)}")


def _choose(family: Family, table: Table, parts: frozenset[str]) -> tuple[str, frozenset[str]]:
    """(architecture, its parts): the one that adds least to `parts`, the first of these."""
    able = {name: held & set(table.parts()) for name, held in family.architectures.items()}
    able = {name: held for name, held in able.items() if parts <= held}
    if not able:
        rows = [f"{name}: {', '.join(sorted(held))}" for name, held in family.architectures.items()]
        raise UserError(
            f"No class of transformers' {family.model_type} holds {', '.join(sorted(parts))} together:\n{listed(rows)}"
            "\nChoose parts by only=(...), which mains spell --only=body,head."
        )
    return min(able.items(), key=lambda item: len(item[1] - parts))


def _groups(entries: Iterable[Entry]) -> list[list[Entry]]:
    """Entries that make the same tensors, in the order of their parts."""
    groups: dict[tuple, list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.theirs, entry.layers, entry.experts), []).append(entry)
    for group in groups.values():
        group.sort(key=lambda entry: entry.part)
        assert [entry.part for entry in group] == [(k, len(group)) for k in range(len(group))], group
    return list(groups.values())


def _write(
    writer: Writer, group: list[Entry], leaves: list[Any], rows: int, name_there: Callable, shape: tuple[int, ...]
) -> None:
    # An array on a device comes over layer by layer; of a leaf on disk all is read.
    leaves = [leaf if isinstance(leaf, jax.Array) else np.asarray(leaf) for leaf in leaves]
    for index, name in group[0].tensors():
        pieces = [entry.theirs_of(np.asarray(leaf[index]), rows) for entry, leaf in zip(group, leaves)]
        writer.write(name_there(name), group[0].join(pieces).reshape(shape))
