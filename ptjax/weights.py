"""Weights that a run begins with: those of another run or of a published model, fitted to this one's net.

Where a run's first state comes from, in this order: its own workdir, which goes on; `Experiment.branch_from`, the
state of another run (`branch`); `Experiment.init_from`, the parameters that another net has under the same names; fresh
ones. Optimizer, step and data begin anew in the last two.
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from ptjax import config as config_lib
from ptjax.checkpoint import CONFIG, Saved, differing, disk_errors, listed, read_config
from ptjax.config import UserError
from ptjax.data.prepare import METADATA
from ptjax.data.tokenizers import MAIN_FILES, Tokenizer, VocabSpec, open_tokenizer
from ptjax.models.base import TextModelConfig
from ptjax.models.heads import init, shapes
from ptjax.objectives.base import Objective
from ptjax.types import Array, PyTree

if TYPE_CHECKING:
    from ptjax.provenance import Provenance
    from ptjax.train import Experiment

BEGINS = "begins.json"  # in a workdir: the weights that the run began with
TOKENIZER = "tokenizer"  # in the folder of a fine-tuned model: that of its tokenizer
POOLING = "pooling.json"  # beside config.json: an `embed.Pooling` that was published with the weights
Leaves = dict[str, jax.ShapeDtypeStruct]  # by path, as in "body/embed/tokens"


@dataclasses.dataclass(frozen=True)
class Transplant:
    """How the parameters of one net become those of another: planned on shapes, then applied to arrays.

    axes: path of each leaf that is taken -> the names of its axes. known: ids of the vocabulary that the source has
    learned, of which the first `size` are taken. size: ids of the target's vocabulary; the rows behind are padding.
    first_position: of `plan`.
    """

    source: Leaves
    target: Leaves
    axes: dict[str, tuple[str | None, ...]]
    known: int
    size: int
    first_position: int = 0

    @classmethod
    def plan(
        cls, source: PyTree, target: PyTree, axes: PyTree, *, known: int, size: int, first_position: int = 0
    ) -> "Transplant":
        """What of the target's parameters the source has.

        All of the body has to be there, no more and no less; of the heads what has the same name and shape. Tables of
        the vocabulary may differ in rows, and the table of positions may be longer than needed.

        Args:
          source, target: params, of shapes at least. axes: names of each axis of the target, as `shapes` gives them.
          first_position: rows of the table of positions that are never read, in front of the others (RoBERTa).

        Raises:
          UserError: leaves of the body that differ.
        """
        there, here = (traverse_util.flatten_dict(tree, sep="/") for tree in (source, target))
        names = traverse_util.flatten_dict(axes, sep="/")
        for path in there.keys() & here.keys():
            for name, rows, wanted in zip(names[path], there[path].shape, here[path].shape):
                if name == "position" and rows < wanted:
                    have, want = rows - first_position, wanted - first_position
                    raise UserError(f"it has {have} positions, too few for {want}: set model.max_length={have} or less")
                if name == "vocab" and rows < known:
                    raise UserError(f"{path} has {rows} rows, too few for {known} ids: it had another tokenizer")
        taken = {path: names[path] for path in here if path in there and _fits(there[path], here[path], names[path])}
        is_open = lambda path: path in taken or not path.startswith("body/")
        rows = differing(*({path: x for path, x in leaves.items() if not is_open(path)} for leaves in (there, here)))
        if rows:
            raise UserError(f"it is of another model. Leaves that differ:\n{listed(rows)}")
        return cls(there, here, taken, known, size, first_position)

    def __call__(self, source: PyTree, fresh: PyTree) -> PyTree:
        """Params of the target: from the source, whose leaves that are not taken may be missing, else from `fresh`.
        Pure: runs under jit, where what is not fresh is not made."""
        leaves, there = (traverse_util.flatten_dict(tree, sep="/") for tree in (fresh, source))
        for path, names in self.axes.items():
            leaves[path] = self._fitted(there[path], leaves[path], names)
        return traverse_util.unflatten_dict(leaves, sep="/")

    def _fitted(self, leaf: Array, like: Array, names: tuple[str | None, ...]) -> Array:
        for axis, name in enumerate(names):
            rows = like.shape[axis]
            if name == "vocab" and (self.known != self.size or leaf.shape[axis] != rows):
                leaf = jnp.moveaxis(self._rows(jnp.moveaxis(leaf, axis, 0), rows), 0, axis)
            elif name == "position":
                leaf = jax.lax.slice_in_dim(leaf, 0, rows, axis=axis)
        return leaf.astype(like.dtype)

    def _rows(self, table: Array, rows: int) -> Array:
        """Of a table of the vocabulary: new ids get the mean of the known ones, so that at first they change no
        prediction much (Hewitt, 2021, "Initializing new word embeddings for pretrained language models"); padding is
        zero."""
        known = table[: min(self.known, self.size)]
        new = jnp.broadcast_to(known.mean(axis=0), (self.size - len(known), *table.shape[1:]))
        padding = jnp.zeros((rows - self.size, *table.shape[1:]), table.dtype)
        return jnp.concatenate([known, new, padding])

    def wanted(self, shardings: PyTree) -> PyTree:
        """The leaves of the source that are taken, as it has them; where they are to live, by the shardings of the
        target: a leaf that they do not divide is whole on every device."""
        where = traverse_util.flatten_dict(shardings, sep="/")
        leaves = {path: self.source[path] for path in self.axes}
        leaves = {
            path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=_divided(leaf, where[path]))
            for path, leaf in leaves.items()
        }
        return traverse_util.unflatten_dict(leaves, sep="/")

    def __str__(self) -> str:
        """What is taken, what is fresh, what is left behind, in one line."""
        parts = lambda paths: dict.fromkeys(path.partition("/")[0] for path in paths)
        new, behind = self.target.keys() - self.axes.keys(), self.source.keys() - self.axes.keys()
        words = []
        for part in parts(self.target):
            fresh = sorted({path.split("/")[1] for path in new if path.startswith(f"{part}/")})
            whole = not fresh or not any(path.startswith(f"{part}/") for path in self.axes)
            words.append(
                f"{part} {'fresh' if fresh else 'taken'}" if whole else f"{part} taken but for {', '.join(fresh)}"
            )
        if left := sorted(parts(behind).keys() - parts(self.target).keys()):
            words.append(f"{', '.join(left)} left behind")
        if self.known < self.size:
            words.append(f"{self.size - self.known} new ids begin as the mean of {self.known}")
        if self.known > self.size:
            words.append(f"{self.size} of {self.known} rows")
        for path, names in self.axes.items():
            if "position" in names and self.source[path].shape != self.target[path].shape:
                axis = names.index("position")
                of = [leaves[path].shape[axis] - self.first_position for leaves in (self.target, self.source)]
                words.append(f"{of[0]} of {of[1]} positions")
        return "; ".join(words)


def _fits(there: jax.ShapeDtypeStruct, here: jax.ShapeDtypeStruct, names: tuple[str | None, ...]) -> bool:
    if len(there.shape) != len(here.shape):
        return False
    able = {"vocab": lambda a, b: True, "position": lambda a, b: a >= b}
    equal = lambda a, b: a == b
    return all(able.get(name, equal)(a, b) for a, b, name in zip(there.shape, here.shape, names, strict=True))


def _divided(leaf: jax.ShapeDtypeStruct, sharding: jax.sharding.Sharding) -> jax.sharding.Sharding:
    try:
        sharding.shard_shape(leaf.shape)
    except ValueError:
        return jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
    return sharding


def convert(
    params: PyTree,
    source: Objective,
    target: Objective,
    model: TextModelConfig,
    pieces: VocabSpec,
    seed: int = 0,
    length: int = 8,
) -> PyTree:
    """Parameters of `source`'s net on a body -> those of `target`'s net on the same body: a decoder becomes an encoder,
    as causal language modelling to masked, and back.

    Which way a body looks is in the mask, the objective's: so its leaves stay as they are, and only heads come and go.
    Pure. pieces: of the tokenizer. seed: of fresh heads. length: of the row that the net is initialised with.

    Raises:
      UserError: parameters that are not of this body.
    """
    vocab = target.vocabulary(pieces)
    net = target.net(model, vocab)
    fresh, axes = shapes(net, length)
    known = source.vocabulary(pieces).size
    transplant = Transplant.plan(params, fresh, axes, known=known, size=vocab.size)
    return jax.jit(lambda params: transplant(params, init(net, jax.random.key(seed), length)))(params)


def config_of(folder: str | Path) -> tuple[Path, dict]:
    """A folder of weights, and its config.json, parsed. Raises UserError where there is none."""
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise UserError(f"init_from={folder}: there is no such folder")
    try:
        there = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError):
        there = None
    if not isinstance(there, dict):
        raise UserError(
            f"init_from={folder} is neither the workdir of a run nor a Hugging Face folder: there is no readable "
            f"{CONFIG} in it"
        )
    if "" in there and (folder / "best" / CONFIG).is_file():
        raise UserError(f"init_from={folder} is the workdir of a fine-tuning: its model is {folder / 'best'}")
    return folder, there


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """Weights in a folder, looked at and not yet read.

    model: their body's config. shapes: params, of ShapeDtypeStructs. known: ids of the vocabulary that they have
    learned. compared: whether their tokenizer is known to be the run's. step: of a run's checkpoint, else None.
    sha256: of the manifest of that checkpoint, or of the names and sizes of published files. read: gives the leaves of
    a tree of ShapeDtypeStructs with shardings.
    """

    folder: Path
    model: TextModelConfig
    shapes: PyTree
    known: int
    compared: bool
    step: int | None
    sha256: str
    read: Callable[[PyTree], PyTree]

    @classmethod
    def open(cls, folder: str | Path, tokenizer: Tokenizer) -> "Source":
        """The last good checkpoint of a workdir, its average of the parameters where it keeps one; or a folder of
        Hugging Face's.

        tokenizer: of the run that is to begin with them. Raises UserError: no such folder, or neither of the two;
        another tokenizer or, where none is known, another number of ids.
        """
        folder, there = config_of(folder)
        return _workdir(folder, tokenizer) if "" in there else _published(folder, tokenizer)

    def fit(self, target: PyTree, axes: PyTree, size: int, model: TextModelConfig) -> "Beginning":
        """What a run begins with whose parameters are `target`, whose vocabulary has `size` ids and whose body is
        `model`. Raises UserError where the bodies differ."""
        notes = model_notes(self.model, model)
        try:
            transplant = Transplant.plan(
                self.shapes, target, axes, known=self.known, size=size, first_position=model.first_position
            )
        except UserError as error:
            advice = f"\nConfigs differ in\n{listed(notes)}" if notes else ""
            raise UserError(f"init_from={self.folder} does not fit: {error}{advice}") from None
        return Beginning(self, transplant, notes)


@dataclasses.dataclass(frozen=True, eq=False)
class Beginning:
    """A source and how its weights become those of a run. notes: where the config of the body is another."""

    source: Source
    transplant: Transplant
    notes: tuple[str, ...]

    def read(self, shardings: PyTree) -> PyTree:
        """The weights that `transplant` takes. shardings: of the run's params."""
        return self.source.read(self.transplant.wanted(shardings))

    def __str__(self) -> str:
        unsure = () if self.source.compared else ("tokenizer not checked",)
        step = "" if self.source.step is None else f", step {self.source.step}"
        begins = f"Begins with the weights of {self.source.folder}{step}: {self.transplant}"
        return "; ".join([begins, *unsure, *self.notes])

    def recorded(self, own: "Provenance") -> tuple["Provenance", list[str]]:
        """The record of the run, and that of the batches it has seen: none."""
        return dataclasses.replace(own, begun_with=self.about), []

    @property
    def about(self) -> dict[str, Any]:
        """Which weights these are: {'folder', 'step', 'sha256'}."""
        source = self.source
        return {"folder": str(source.folder.absolute()), "step": source.step, "sha256": source.sha256}

    def record(self, workdir: Path) -> None:
        """Writes into the workdir of the run which weights these are, and how they make a vector of a text."""
        source = self.source
        with disk_errors(workdir):
            (workdir / BEGINS).write_text(json.dumps(self.about, indent=1) + "\n")
            if (source.folder / POOLING).is_file():
                shutil.copyfile(source.folder / POOLING, workdir / POOLING)


# Fields of a model that say how to train or compute, not what weights mean; sizes show in shapes.
FREE = (
    "dropout",
    "attention_dropout",
    "std",
    "position_std",
    "dtype",
    "remat",
    "unroll",
    "vocab_multiple",
    "max_length",
)


def model_notes(there: TextModelConfig, here: TextModelConfig) -> tuple[str, ...]:
    """A line for each field in which two bodies mean their weights otherwise."""
    rows = [row for row in config_lib.differences(there, here) if row[0] not in FREE]
    return tuple(f"{f'model.{key}'.strip('.')}: {one} there, {other} here" for key, one, other in rows)


def _workdir(folder: Path, tokenizer: Tokenizer) -> Source:
    experiment = config_lib.from_json(read_config(folder))
    if not hasattr(experiment, "objective"):
        raise UserError(f"init_from={folder}: its {CONFIG} is of a {type(experiment).__name__}, not of a run")
    compared = check_tokenizer(f"init_from={folder}", folder, experiment, tokenizer)
    saved = Saved.find(folder / "checkpoints")
    field = "ema" if saved.shapes("ema") else "params"
    known, leaves = experiment.objective.vocabulary(tokenizer.vocab).size, saved.shapes(field)
    if not compared:
        table, padded = leaves["body"]["embed"]["tokens"].shape[0], experiment.model.padded_vocab(known)
        _check_count(folder, f"a table of {table} rows", f"one of {padded}", table == padded)
    read = lambda tree: saved.read(tree, field)
    return Source(folder, experiment.model, leaves, known, compared, saved.step, saved.sha256, read)


def _published(folder: Path, tokenizer: Tokenizer) -> Source:
    from ptjax.interop.published import look  # here: the loop knows no families

    compared = any((folder / name).exists() for name in TOKENIZERS)
    if compared:
        _check_same(f"init_from={folder}", folder, open_tokenizer(folder).hash, tokenizer)
    found = look(folder)
    if not compared:
        ids = tokenizer.vocab.rows
        _check_count(folder, f"a vocabulary of {found.rows} ids", str(ids), found.rows == ids)
    shapes = traverse_util.unflatten_dict(found.shapes, sep="/")
    read = lambda tree: found.params(jax.tree.map(lambda x: x.sharding, tree))
    files = {path.name: path.stat().st_size for path in sorted(folder.glob("*.safetensors*"))}
    sha256 = hashlib.sha256(json.dumps(files).encode()).hexdigest()
    return Source(folder, found.config, shapes, found.rows, compared, None, sha256, read)


TOKENIZERS = (*MAIN_FILES, "vocab.json", "vocab.txt")  # a published folder that has one of them has a tokenizer


def check_tokenizer(name: str, folder: Path, experiment: "Experiment", tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer of the run in `folder` is known; then raises UserError where it is another."""
    own = folder / TOKENIZER
    if own.is_dir():
        _check_same(name, own, open_tokenizer(own).hash, tokenizer)
        return True
    corpus = Path(experiment.data.corpus.path).expanduser() / METADATA
    if corpus.is_file():
        _check_same(name, corpus.parent, json.loads(corpus.read_text())["tokenizer"]["sha256"], tokenizer)
    return corpus.is_file()


def _check_same(name: str, where: Path, there: str, here: Tokenizer) -> None:
    if there != here.hash:
        raise UserError(
            f"{name} was trained with the tokenizer in {where}, and the corpus is prepared with another, "
            f"{here.path}: prepare one with (data.corpus.)tokenizer=Imported (data.corpus.)tokenizer.path={where}"
        )


def _check_count(folder: Path, there: str, here: str, alike: bool) -> None:
    """Where the tokenizer that the weights had is not known."""
    if not alike:
        raise UserError(
            f"init_from={folder} has {there}, and the corpus's tokenizer makes {here}: it had another tokenizer, which "
            "is not there. Its files belong beside the weights, and the corpus is to be prepared with it"
        )
