"""Hugging Face's folders, both ways: config.json and safetensors to a config and params of ours, and back.

Everything is proven before an array is made: that every tensor there is known, and that every leaf of ours has its
tensors, of the right shapes. Then it goes tensor by tensor, whichever way: nobody holds a second copy of the model.
"""

import dataclasses
import json
import math
import re
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import chz
import jax
import numpy as np
from flax import traverse_util

from ptjax import __version__
from ptjax.config import UserError
from ptjax.data.tokenizers import VocabSpec
from ptjax.interop.families import FAMILIES
from ptjax.interop.family import Family
from ptjax.interop.tables import Entry, Table
from ptjax.interop.tensors import MAX_SHARD_BYTES, Tensors, Writer, listed, new_folder, read_json
from ptjax.models.base import TextModelConfig
from ptjax.models.heads import init
from ptjax.types import Array, PyTree

CONFIG = "config.json"
# Sizes in all families' config.json; a null is as good as none. The former are how many tensors there are of a kind.
_COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "num_decoder_layers", "num_experts", "num_local_experts")
_SIZES = (
    *("vocab_size", "hidden_size", "intermediate_size", "embedding_size", "num_attention_heads", "num_key_value_heads"),
    *("max_position_embeddings", "head_dim", "n_embd", "n_head", "n_inner", "n_positions", "d_model", "d_kv", "d_ff"),
    *("d_inner", "d_head", "num_heads", "moe_intermediate_size", "num_experts_per_tok"),
)
_MAX_COUNT, _MAX_SIZE = 10_000, 1 << 24


@dataclasses.dataclass(frozen=True, eq=False)
class Published:
    """A published model that has been looked through and found whole; none of its weights is in memory.

    theirs: config.json. architecture: as it says, or "". rows: of their vocabulary. vocab_size: ids of ours.
    shapes: path of a leaf ("body/embed/tokens") -> ShapeDtypeStruct, for all that `params` will give.
    left_out: names of tensors there that nothing is made of.
    """

    family: Family
    config: TextModelConfig
    theirs: dict[str, Any]
    architecture: str
    rows: int
    vocab_size: int
    shapes: dict[str, jax.ShapeDtypeStruct]
    tensors: tuple[str, ...]
    left_out: tuple[str, ...]
    _tensors: Tensors
    _entries: tuple[Entry, ...]
    _names: dict[str, str]  # as the table writes them -> as they are in the files

    @property
    def parts(self) -> frozenset[str]:
        """Of our params."""
        return frozenset(path.partition("/")[0] for path in self.shapes)

    def params(self, shardings: PyTree = None) -> PyTree:
        """The weights, float32, each leaf made where it will live and no more of it read than lives there.

        shardings: a tree of params with a Sharding at each leaf (other leaves are ignored); None: the first device.
        """
        where = traverse_util.flatten_dict(shardings or {}, sep="/")
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0]) if shardings is None else None
        leaves = {}
        for entry in self._entries:
            leaf = _Leaf(self, entry)
            leaves[entry.ours] = jax.make_array_from_callback(leaf.shape, here or where[entry.ours], leaf.values)
        return traverse_util.unflatten_dict(leaves, sep="/")

    def read(self, name: str) -> np.ndarray:
        return self._tensors.read(self._names[name])


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


def look(
    folder: str | Path, *, vocab_size: int | None = None, dtype: str = "float32", only: Collection[str] | None = None
) -> Published:
    """Reads config.json and the headers of the weights, and proves that they are a model that ptjax knows.

    Args:
      folder: with config.json and safetensors, or a file of safetensors beside its config.json.
      vocab_size: ids of the tokenizer; None: as many as they have rows. Those behind theirs get the mean of theirs.
      dtype: in which our config computes.
      only: parts to take, 'body' among them; other tensors may be whatever they are. None: all.

    Raises:
      UserError: no such files, or damaged; a model that ptjax does not know; tensors missing, left over, of a wrong
        shape or type.
    """
    path = Path(folder)
    path = (path.parent if path.is_file() else path) / CONFIG
    theirs = read_json(path)
    family, config = _understand(path, theirs)
    config = chz.replace(config, dtype=dtype)
    rows = theirs["vocab_size"]
    table = family.table(config)
    tensors = Tensors(folder)
    architecture = _architecture(path, theirs)
    names = _Names(table, tensors)
    parts = names.parts | family.architectures.get(architecture, frozenset()) & set(table.parts()) | {"body"}
    if only is not None:
        if unknown := set(only) - names.parts - {"body"}:
            raise UserError(
                f"{folder} has no {' and no '.join(sorted(unknown))}: its parts are {', '.join(sorted(names.parts))}"
            )
        parts = frozenset(only) | {"body"}
    entries = tuple(entry for entry in table.entries if _part(entry) in parts)
    source = f"{folder} ({architecture or family.model_type})"
    left_out = names.check(source, family, architecture, entries, only is not None)
    size = vocab_size or rows
    shapes = _shapes(family, config, table, parts & set(table.parts()), size)
    wrong = []
    for entry in entries:
        inner = shapes[entry.ours].shape[entry.stacked :]
        if entry.layout == "table" and inner[0] < rows:
            raise UserError(
                f"{source} has {rows} rows of vocabulary, and a model of {size} ids has {inner[0]}: set "
                f"model.vocab_multiple={1 << (rows - 1).bit_length()}, or vocab_size to {rows}"
            )
        for _, name in entry.tensors():
            there, expected = tensors[names.there[name]].shape, entry.shape_there(inner, rows)
            if there != expected:
                wrong.append(f"{names.there[name]}: {list(there)} there, {list(expected)} by {CONFIG}")
    if wrong:
        raise UserError(f"{source} has tensors of other shapes than {CONFIG} says:\n{listed(wrong)}")
    used = tuple(dict.fromkeys(names.there[name] for entry in entries for _, name in entry.tensors()))
    tensors.check_floats(used)
    shapes = {entry.ours: shapes[entry.ours] for entry in entries}
    found = Published(
        family, config, theirs, architecture, rows, size, shapes, used, left_out, tensors, entries, names.there
    )
    names.check_copies(source)
    return found


def _understand(path: Path, theirs: dict[str, Any]) -> tuple[Family, TextModelConfig]:
    known = {family.model_type: family for family in FAMILIES}
    model_type = theirs.get("model_type")
    if not isinstance(model_type, str) or model_type not in known:
        raise UserError(f"{path} has model_type={model_type!r}; ptjax knows {', '.join(sorted(known))}")
    for key in (*_COUNTS, *_SIZES):
        value, most = theirs.get(key), _MAX_COUNT if key in _COUNTS else _MAX_SIZE
        if value is not None and (type(value) is not int or not 1 <= value <= most):
            raise UserError(f"{path} has {key}={value!r}, where a whole number from 1 to {most} is wanted")
    if theirs.get("vocab_size") is None:
        raise UserError(f"{path} has no vocab_size")
    try:
        return known[model_type], known[model_type].config(theirs)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except KeyError as error:
        raise UserError(f"{path} has no {error.args[0]!r}") from None
    except (ValueError, TypeError, AttributeError, ArithmeticError) as error:
        raise UserError(f"{path} does not describe a {model_type}: {error}") from None


def _architecture(path: Path, theirs: dict[str, Any]) -> str:
    found = theirs.get("architectures") or [""]
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise UserError(f"{path} has architectures={found!r}, where a list with a name is wanted")
    return found[0]


def _part(entry: Entry) -> str:
    return entry.ours.partition("/")[0]


class _Names:
    """A table's names and those of the files, matched.

    there: name in the table -> name in the files, for all that is found. parts: of ours that have a tensor there.
    A body that was saved alone lacks the prefix; a copy stands in for what it repeats; and TensorFlow's BERT has gamma
    and beta.
    """

    def __init__(self, table: Table, tensors: Tensors):
        self._table, self._tensors = table, tensors
        self.bare = bool(table.prefix) and not any(name.startswith(table.prefix) for name in tensors)
        wanted = {name: entry for entry in table.entries for _, name in entry.tensors()}
        self.there: dict[str, str] = {}
        for name in [*wanted, *table.copies]:
            found = self._find(name)
            if found is not None:
                self.there[name] = found
        for copy, of in table.copies.items():
            if of not in self.there and copy in self.there:
                self.there[of] = self.there[copy]
        self.parts = frozenset(_part(entry) for name, entry in wanted.items() if name in self.there)

    def _find(self, name: str) -> str | None:
        name = self.shown(name)
        old = re.sub(r"LayerNorm\.(weight|bias)$", lambda m: "LayerNorm." + OLD[m[1]], name)
        return next((one for one in (name, old) if one in self._tensors), None)

    def shown(self, name: str) -> str:
        """As these files would write it."""
        return name.removeprefix(self._table.prefix) if self.bare else name

    def check(
        self, source: str, family: Family, architecture: str, entries: Iterable[Entry], only: bool
    ) -> tuple[str, ...]:
        """Proves that all tensors of `entries` are there and, unless `only` some are asked for, no others; -> names
        that are left out. Raises UserError."""
        used = {name for entry in entries for _, name in entry.tensors()}
        missing = [self.shown(name) for name in used if name not in self.there]
        known = {there for name, there in self.there.items()}
        buffers = [name for name in self._tensors if any(re.fullmatch(one, name) for one in self._table.buffers)]
        extra = [name for name in self._tensors if name not in known and name not in buffers]
        # Under the body's own name nothing may be left: with more to it, it is another body.
        body = {name for entry in self._table.entries if _part(entry) == "body" for _, name in entry.tensors()}
        tops = {self.shown(name).partition(".")[0] for name in body}
        strange = [name for name in extra if name.partition(".")[0] in tops]
        problems = sorted(missing), sorted(strange if only else extra)
        if any(problems):
            rows = [f"{name}: missing" for name in problems[0]] + [f"{name}: left over" for name in problems[1]]
            hint = ""
            if architecture and architecture not in family.architectures:
                hint = f"\nOf {family.model_type} ptjax knows {', '.join(family.architectures)}."
            if not only and not strange and not (body & used) - self.there.keys():
                hint += "\nTo take the body and leave the rest: only=('body',), which mains spell --only=body."
            raise UserError(f"{source} does not have the tensors that it should have:\n{listed(rows)}{hint}")
        taken = {self.there[name] for name in used}
        copies = {self.there[copy] for copy, of in self._table.copies.items() if copy in self.there and of in used}
        return tuple(sorted(set(self._tensors) - taken - copies - set(buffers)))

    def check_copies(self, source: str) -> None:
        """Raises UserError where a tensor is not what it should repeat."""
        for copy, of in self._table.copies.items():
            if copy in self.there and of in self.there and self.there[copy] != self.there[of]:
                names = self.there[copy], self.there[of]
                if self._tensors[names[0]].shape != self._tensors[names[1]].shape or not _equal(
                    *(self._tensors.read(name) for name in names)
                ):
                    raise UserError(
                        f"{source}: {names[0]} should repeat {names[1]}, and has other values: a head with a table of "
                        "its own is not what config.json says"
                    )


OLD = {"weight": "gamma", "bias": "beta"}
_BLOCK = 1 << 22  # numbers at a time


def _blocks(tensor: np.ndarray) -> Iterable[slice]:
    step = max(1, _BLOCK // max(1, math.prod(tensor.shape[1:])))
    return (slice(start, start + step) for start in range(0, len(tensor), step))


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return all(np.array_equal(a[block], b[block], equal_nan=True) for block in _blocks(a))


def _mean(tensor: np.ndarray) -> np.ndarray:
    """Of the rows, summed in float64 in a fixed order."""
    total = sum(tensor[block].astype(np.float64).sum(axis=0) for block in _blocks(tensor))
    return np.asarray(total / len(tensor), np.float32)


def _shapes(family: Family, config: TextModelConfig, table: Table, parts: Collection[str], vocab_size: int):
    """Path -> shape of every leaf of `parts`."""
    leaves: dict[str, jax.ShapeDtypeStruct] = {}
    for net in family.nets(config, VocabSpec.synthetic(max(vocab_size, 8))):
        tree = jax.eval_shape(lambda: init(net, jax.random.key(0), min(config.max_length, 8)))
        leaves |= traverse_util.flatten_dict({part: tree[part] for part in tree.keys() & parts}, sep="/")
    named = sorted(entry.ours for entry in table.entries if _part(entry) in parts)
    assert named == sorted(leaves), f"table of {family.model_type}: {sorted(set(named) ^ leaves.keys())}"
    return leaves


class _Leaf:
    """One leaf of ours, as its values are asked for by those who will hold them."""

    def __init__(self, model: Published, entry: Entry):
        self._model, self._entry = model, entry
        self.shape = model.shapes[entry.ours].shape
        self._mean: np.ndarray | None = None

    def values(self, index: tuple[slice, ...]) -> np.ndarray:
        """f32 of self.shape[index]. Reads nothing else."""
        entry, inner = self._entry, self.shape[self._entry.stacked :]
        spans = [range(size)[part] for size, part in zip(self.shape, index, strict=True)]
        result = np.zeros([len(span) for span in spans], np.float32)
        lead, rest = spans[: entry.stacked], spans[entry.stacked :]
        for position, name in entry.tensors():
            if all(at in span for at, span in zip(position, lead)):
                at = tuple(span.index(at) for at, span in zip(position, lead))
                tensor = entry.ours_of(self._model.read(name), inner)
                if entry.layout == "table":
                    self._fill_table(result[at], tensor, rest)
                else:
                    result[at] = tensor[tuple(slice(span.start, span.stop) for span in rest)]
        return result

    def _fill_table(self, result: np.ndarray, tensor: np.ndarray, spans: list[range]) -> None:
        """Their rows, then the mean of them for ids of ours that they lack; padding stays zero."""
        first, rest = spans[0].start, tuple(slice(span.start, span.stop) for span in spans[1:])
        theirs = tensor[first : spans[0].stop]
        result[: len(theirs)] = theirs[(slice(None), *rest)]
        new = range(max(first, len(tensor)), min(spans[0].stop, self._model.vocab_size))
        if new:
            if self._mean is None:
                self._mean = _mean(tensor)
            result[new.start - first : new.stop - first] = self._mean[rest]


# Export.


@dataclasses.dataclass(frozen=True)
class Saved:
    """architecture: as what it was saved. parts: of ours that it holds; new: those of the architecture that ours lack,
    which transformers makes at random; left_out: of ours."""

    architecture: str
    parts: frozenset[str]
    new: frozenset[str]
    left_out: frozenset[str]
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
    max_shard_bytes: int = MAX_SHARD_BYTES,
    beside: Callable[[Path], None] = lambda folder: None,
) -> Saved:
    """Writes a folder that transformers opens, whole or not at all.

    Args:
      folder: new, empty, or one that this function has written before.
      params: {"body": ..., "head": ...}; leaves are arrays, or whatever has a shape and becomes one by `np.asarray`,
        which happens to one leaf at a time (to those of one tensor at a time, where several make one).
      rows: of the vocabulary, without padding.
      dtype: of the tensors, float32, bfloat16 or float16; a finite number never becomes infinite.
      only: parts to write; None: all.
      described: more of config.json: ids of special tokens.
      beside: writes more files, a tokenizer's, into the folder it is given.

    Raises:
      UserError: a model or leaves that have no counterpart there, and a folder that is somebody else's.
    """
    folder = Path(folder)
    _check_target(folder)
    family = next((family for family in FAMILIES if family.own(config)), None)
    if family is None:
        bodies = sorted({family.body.__name__ for family in FAMILIES})
        raise UserError(
            f"{type(config).__name__} is no model of transformers; what can be written is {', '.join(bodies)}"
        )
    table, leaves = family.table(config), traverse_util.flatten_dict(params, sep="/")
    held = frozenset(path.partition("/")[0] for path in leaves)
    if only is not None and not set(only) <= held:
        raise UserError(
            f"there is no {' and no '.join(sorted(set(only) - held))} here: parts are {', '.join(sorted(held))}"
        )
    parts = held if only is None else frozenset(only)
    leaves = {path: leaf for path, leaf in leaves.items() if path.partition("/")[0] in parts}
    entries = [entry for entry in table.entries if _part(entry) in parts]
    _check_leaves(family, entries, leaves)
    architecture, expected = _choose(family, table, parts)
    theirs = {"architectures": [architecture], "model_type": family.model_type, "dtype": dtype, "torch_dtype": dtype}
    theirs |= family.describe(config, rows) | (described or {}) | {"ptjax_version": __version__}
    bare = architecture.endswith("Model") and not architecture.endswith("LMHeadModel")
    name_there = lambda name: name.removeprefix(table.prefix) if bare else name
    groups = _groups(entries)
    shapes = {
        name_there(name): entry.shape_there(leaves[entry.ours].shape[entry.stacked :], rows)
        for (entry, *_) in groups
        for _, name in entry.tensors()
    }
    with new_folder(folder) as temporary:
        (temporary / CONFIG).write_text(json.dumps(dict(sorted(theirs.items())), indent=2) + "\n")
        writer = Writer(temporary, shapes, dtype, max_shard_bytes)
        for group in groups:
            _write(writer, group, [leaves[entry.ours] for entry in group], rows, name_there)
        writer.close()
        beside(temporary)
    return Saved(architecture, parts, expected - parts, held - parts, len(shapes), writer.bytes)


def _check_target(folder: Path) -> None:
    """Raises UserError where something is there that a folder of ours would replace."""
    if not folder.exists() or folder.is_dir() and not any(folder.iterdir()):
        return
    try:
        if "ptjax_version" in read_json(folder / CONFIG):
            return
    except UserError:
        pass
    raise UserError(f"{folder} holds something that ptjax did not write: name another folder, or move it away")


def _check_leaves(family: Family, entries: list[Entry], leaves: dict[str, Array]) -> None:
    named = {entry.ours for entry in entries}
    strange = sorted(leaves.keys() - named)
    if strange:
        rows = [f"{path} {list(leaves[path].shape)}" for path in strange]
        parts = {path.partition("/")[0] for path in strange}
        way = "" if "body" in parts else "\nTo write the body alone: only=('body',), which mains spell --only=body."
        raise UserError(f"transformers' {family.model_type} has no place for these leaves:\n{listed(rows)}{way}")
    if missing := sorted(named - leaves.keys()):
        raise UserError(f"transformers' {family.model_type} has leaves that this model lacks:\n{listed(missing)}")


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


def _write(writer: Writer, group: list[Entry], leaves: list[Array], rows: int, name_there: Callable) -> None:
    first = group[0]
    shape = first.shape_there(leaves[0].shape[first.stacked :], rows)
    # An array on a device comes over layer by layer; of a leaf on disk all is read.
    leaves = [leaf if isinstance(leaf, jax.Array) else np.asarray(leaf) for leaf in leaves]
    for index, name in first.tensors():
        parts = [entry.theirs_of(np.asarray(leaf[index]), rows) for entry, leaf in zip(group, leaves)]
        writer.write(name_there(name), first.join(parts).reshape(shape))
