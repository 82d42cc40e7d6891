"""A published model, looked through before an array is made: config.json and the headers of its files.

Every tensor there has to be known, and every leaf of ours has to have its tensors, of the right shapes. Then leaves are
made where they will live, tensor by tensor: nobody holds a second copy of the model.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import chz
import jax
import numpy as np
from flax import traverse_util

from ptjax.checkpoint import listed
from ptjax.config import UserError
from ptjax.data.tokenizers import VocabSpec
from ptjax.interop.families import FAMILIES
from ptjax.interop.family import Family
from ptjax.interop.mark import CONFIG, objective_of
from ptjax.interop.tables import Entry, Table
from ptjax.interop.tensors import Tensors, read_json
from ptjax.models.base import TextModelConfig
from ptjax.models.heads import init
from ptjax.objectives import Objective
from ptjax.types import PyTree

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
    shapes: path of a leaf ("body/embed/tokens") -> ShapeDtypeStruct, for all that `params` gives.
    left_out: names of tensors that nothing is made of, without those that are computed. entries: of the name table,
    those of `shapes`.
    """

    family: Family
    config: TextModelConfig
    theirs: dict[str, Any]
    architecture: str
    rows: int
    vocab_size: int
    shapes: dict[str, jax.ShapeDtypeStruct]
    left_out: tuple[str, ...]
    _tensors: Tensors
    entries: tuple[Entry, ...]
    _names: dict[str, str]  # as the table writes them -> as they are in the files

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names, as the files have them, of all that `params` reads."""
        return tuple(dict.fromkeys(self._names[name] for entry in self.entries for _, name in entry.tensors()))

    @property
    def parameters(self) -> int:
        """How many numbers these are."""
        return sum(math.prod(self._tensors[name].shape) for name in self.tensors)

    @property
    def parts(self) -> frozenset[str]:
        """Of our params."""
        return frozenset(path.partition("/")[0] for path in self.shapes)

    @property
    def objective(self) -> Objective:
        """With what it was pre-trained: as ptjax wrote it, or else the family's."""
        return objective_of(self.theirs) or self.family.objective(self.parts)

    def params(self, shardings: PyTree = None) -> PyTree:
        """The weights, float32, each leaf made where it will live and no more of it read than lives there.

        shardings: a tree of params with a Sharding at each leaf that is wanted; None: all, on the first device.
        """
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        where = (
            dict.fromkeys(self.shapes, here) if shardings is None else traverse_util.flatten_dict(shardings, sep="/")
        )
        leaves = {}
        for entry in self.entries:
            if entry.ours in where:
                shape, values = self.shapes[entry.ours].shape, Values(self, entry)
                array = jax.make_array_from_callback(shape, where[entry.ours], values)
                leaves[entry.ours] = jax.block_until_ready(array)  # before the next one is read
        return traverse_util.unflatten_dict(leaves, sep="/")

    def read(self, name: str) -> np.ndarray:
        return self._tensors.read(self._names[name])


def look(
    folder: str | Path, *, vocab_size: int | None = None, dtype: str = "float32", only: Collection[str] | None = None
) -> Published:
    """Reads config.json and the headers of the weights, and proves that they are a model that ptjax knows.

    Args:
      folder: with config.json and safetensors, or a file of safetensors beside its config.json.
      vocab_size: ids that the model is to have; None: as many as theirs. Those behind theirs get the mean of theirs.
      dtype: in which our config computes.
      only: parts to take beside the body, whatever other tensors there are; None: all, and no other tensors.

    Raises:
      UserError: no such files, or damaged; a model that ptjax does not know; tensors missing, left over, of a wrong
        shape or type.
    """
    folder = Path(folder).expanduser()
    path = (folder.parent if folder.is_file() else folder) / CONFIG
    theirs = read_json(path)
    family, config = _understand(path, theirs)
    config = chz.replace(config, dtype=dtype)
    rows, table, tensors = theirs["vocab_size"], family.table(config), Tensors(folder)
    architecture = _architecture(path, theirs)
    source = f"{folder} ({architecture or family.model_type})"
    names = Names(table, tensors)
    declared = family.architectures.get(architecture, frozenset()) & set(table.parts())
    parts = names.parts | declared | {"body"}
    if only is not None:
        if unknown := set(only) - parts:
            raise UserError(f"{source} has no {' and no '.join(sorted(unknown))}: its parts are {_words(parts)}")
        parts = {"body", *only}
    entries = tuple(entry for entry in table.entries if entry.top in parts)
    left_out = names.check(source, family, architecture, entries, only is not None)
    vocab_size = vocab_size or rows
    shapes = leaf_shapes(family, config, frozenset(parts), vocab_size)
    used = {names.there[name]: entry for entry in entries for _, name in entry.tensors()}
    wrong = []
    for name, entry in used.items():
        inner = shapes[entry.ours].shape[entry.stacked :]
        if entry.layout == "table" and inner[0] < rows:
            raise UserError(f"{source} has a vocabulary of {rows}, too many for a table of {inner[0]}")
        there, expected = tensors[name].shape, entry.shape_there(inner, rows)
        if there != expected:
            wrong.append(f"{name}: {list(there)} there, {list(expected)} by {CONFIG}")
    if wrong:
        raise UserError(f"{source} has tensors of other shapes than {CONFIG} says:\n{listed(wrong)}")
    tensors.check_floats(used)
    names.check_copies(source)
    return Published(
        family, config, theirs, architecture, rows, vocab_size, shapes, left_out, tensors, entries, names.there
    )


def _words(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _understand(path: Path, theirs: dict[str, Any]) -> tuple[Family, TextModelConfig]:
    known = {family.model_type: family for family in FAMILIES}
    model_type = theirs.get("model_type")
    if not isinstance(model_type, str) or model_type not in known:
        raise UserError(f"{path} has model_type={model_type!r}; ptjax knows {_words(known)}")
    for key in (*_COUNTS, *_SIZES, "type_vocab_size"):
        value, least, most = theirs.get(key), int(key != "type_vocab_size"), _MAX_COUNT if key in _COUNTS else _MAX_SIZE
        if value is not None and (type(value) is not int or not least <= value <= most):
            raise UserError(f"{path} has {key}={value!r}, where a whole number from {least} to {most} is wanted")
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


class Names:
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
        self.parts = frozenset(entry.top for name, entry in wanted.items() if name in self.there)

    def _find(self, name: str) -> str | None:
        name = self.shown(name)
        old = re.sub(r"LayerNorm\.(weight|bias)$", lambda m: "LayerNorm." + _OLD[m[1]], name)
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
        alike = lambda patterns: {name for name in self._tensors if any(re.fullmatch(one, name) for one in patterns)}
        buffers, unread = alike(self._table.buffers), alike(self._table.unread)
        extra = set(self._tensors) - buffers - unread - set(self.there.values())
        # Under the body's own name nothing may be left: with more to it, it is another body.
        body = {name for entry in self._table.entries if entry.top == "body" for _, name in entry.tensors()}
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
        taken = used | {copy for copy, of in self._table.copies.items() if of in used}
        return tuple(sorted(set(self._tensors) - buffers - {self.there.get(name) for name in taken}))

    def check_copies(self, source: str) -> None:
        """Raises UserError where a tensor is not what it should repeat."""
        for copy, of in self._table.copies.items():
            if copy not in self.there or of not in self.there:
                continue
            copy, of = self.there[copy], self.there[of]
            self._tensors.check_floats([copy])
            alike = self._tensors[copy].shape == self._tensors[of].shape
            if not alike or not _equal(self._tensors.read(copy), self._tensors.read(of)):
                raise UserError(
                    f"{source}: {copy} has other values than {of}, and by {CONFIG} the two are one: where they are "
                    "not, tie_word_embeddings=false belongs there"
                )


_OLD = {"weight": "gamma", "bias": "beta"}
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


@functools.lru_cache(maxsize=16)  # tracing a net takes a second
def leaf_shapes(
    family: Family, config: TextModelConfig, parts: frozenset[str], vocab_size: int
) -> dict[str, jax.ShapeDtypeStruct]:
    """Path -> shape of every leaf of `parts`, which the family's table has."""
    leaves: dict[str, jax.ShapeDtypeStruct] = {}
    for net in family.nets(config, VocabSpec.synthetic(max(vocab_size, 8))):
        tree = jax.eval_shape(lambda: init(net, jax.random.key(0), min(config.max_length, 8)))
        leaves |= traverse_util.flatten_dict({part: tree[part] for part in tree.keys() & parts}, sep="/")
    named = sorted(entry.ours for entry in family.table(config).entries if entry.top in parts)
    assert named == sorted(leaves), f"table of {family.model_type}: {sorted(set(named) ^ leaves.keys())}"
    return leaves


class Values:
    """Of one leaf of ours, as they are asked for by the devices that will hold them."""

    def __init__(self, model: Published, entry: Entry):
        self._model, self._entry = model, entry
        self._shape = model.shapes[entry.ours].shape
        self._mean: np.ndarray | None = None

    def __call__(self, index: tuple[slice, ...]) -> np.ndarray:
        """f32 of leaf[index]. Reads nothing else."""
        entry, inner = self._entry, self._shape[self._entry.stacked :]
        spans = [range(size)[part] for size, part in zip(self._shape, index, strict=True)]
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
