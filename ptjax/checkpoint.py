"""Checkpoints of a run, written by Orbax in the background and proven whole before they are used.

    workdir/config.json                the experiment that owns the workdir (`check_workdir`)
    workdir/checkpoints/1000/          a committed step: Orbax's arrays, config.json, metrics.json, manifest.json
    workdir/checkpoints/1000.damaged/  a step that failed its manifest, kept aside

Orbax restores a flipped bit silently and a truncated file with any of a dozen exceptions; so manifest.json holds the
size and SHA-256 of every other file. It is written before Orbax's atomic rename, hence a step directory either has
everything or is a temporary that nobody reads: a kill at any moment leaves the earlier steps good.

On disk a state is a nested dict of arrays, keyed by the names on the path to each leaf. None and empty dicts hold no
array: they come back from the tree that the caller restores into.
"""

import concurrent.futures
import contextlib
import dataclasses
import errno
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import traverse_util
from jax.experimental import multihost_utils

from ptjax import config as config_lib
from ptjax.config import Config, UserError
from ptjax.data.manifest import hash_file
from ptjax.files import write_text

PyTree = Any
MANIFEST, CONFIG, METRICS = "manifest.json", "config.json", "metrics.json"
CORPUS, _CORPUS_PATH = "corpus", "data.corpus.path"  # of a corpus inside a workdir: its folder, its key in config.json
_DAMAGED, _DELETING, _TEMPORARY, _TIMES = ".damaged", ".deleting", ".orbax-checkpoint-tmp", "_CHECKPOINT_METADATA"


class Checkpoints:
    """The checkpoints in one folder. All processes call every method; the first one writes what is shared."""

    def __init__(
        self,
        folder: str | Path,
        keep: int = 3,
        best: str | None = None,
        asynchronous: bool = True,
        on_event: Callable[[str], None] = print,
        keep_steps: Sequence[int] = (),
    ):
        """
        Args:
          folder: made when the first step is saved.
          keep: how many of the latest steps are kept.
          best: a metric of `save`; the step where it is lowest is kept too.
          asynchronous: whether `save` returns while files are being written.
          on_event: told about damaged steps, in one line each.
          keep_steps: steps that are kept whatever comes.
        """
        self.folder = Path(folder).absolute()
        self.keep, self.best, self.asynchronous, self._on_event = keep, best, asynchronous, on_event
        self.keep_steps = frozenset(keep_steps)
        self._saving: tuple[int, str, dict] | None = None
        logging.getLogger("absl").addFilter(_is_not_raised_anyway)
        # Left to itself Orbax cuts each leaf into as many parts as there are replicas, and compiles each cut.
        arrays = ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=2**20)
        registry = ocp.type_handlers.create_type_handler_registry((jax.Array, arrays))
        self._orbax = ocp.AsyncCheckpointer(
            # Compressed, weights are 8 % smaller, and writing them takes several times the processor time from steps.
            ocp.PyTreeCheckpointHandler(type_handler_registry=registry, use_compression=False),
            async_options=ocp.options.AsyncOptions(post_finalization_callback=self._before_commit),
        )

    def save(self, step: int, state: PyTree, *, config_json: str, metrics: dict[str, float] | None = None) -> None:
        """Saves `state` (any pytree of jax.Arrays) as `step`; a step that is there already stays as it is.

        Returns when the state has been copied, so that its buffers may be donated. Failures of the background part,
        a full disk for one, come from the next call.

        Raises:
          UserError: no space, no permission.
        """
        with disk_errors(self.folder):
            self._finish()
            if agree(step in self.steps()):
                return
            if is_primary():
                self.folder.mkdir(parents=True, exist_ok=True)
                self._remove_leftovers()
            self._saving = (step, config_json, metrics or {})
            # force: a directory of this step without a manifest is worth nothing.
            self._orbax.save(self.folder / str(step), args=ocp.args.PyTreeSave(_to_disk(state)), force=True)
            if not self.asynchronous:
                self._finish()

    def wait(self) -> None:
        """Returns when the last save is committed; raises UserError when it failed for want of space or permission."""
        with disk_errors(self.folder):
            self._finish()

    def close(self) -> None:
        self.wait()
        self._orbax.close()

    def steps(self) -> list[int]:
        """Committed steps, in order."""
        return committed(self.folder)

    def restore(self, abstract: PyTree, step: int | None = None) -> tuple[PyTree, int] | None:
        """The state of `step`, or of the last good step; None where nothing has been saved.

        Damaged steps that are newer than the one used are reported and set aside (N.damaged).

        Args:
          abstract: the tree to fill; leaves have shape, dtype and sharding (the mesh may differ from the saved one).

        Raises:
          UserError: `step` is missing or damaged; every step is damaged; the state is of another model.
        """
        self._orbax.wait_until_finished()  # and drops no step: who only reads has no say in what is kept
        good, damaged = _find_good(self.folder, step)
        if good is None:
            return None
        for other, problem in damaged.items():
            aside = self.folder / f"{other}{_DAMAGED}"
            self._on_event(f"Checkpoint {self.folder / str(other)} is damaged ({problem}); set aside; using {good}")
            if is_primary():
                shutil.rmtree(aside, ignore_errors=True)
                (self.folder / str(other)).rename(aside)
        return _read(self.folder / str(good), abstract), good

    def _finish(self) -> None:
        """Ends the save in flight, then drops the steps that are no longer kept."""
        self._orbax.wait_until_finished()
        self._saving = None
        if is_primary():
            steps = self.steps()
            for step in set(steps) - set(steps[-self.keep :]) - {self._best_step(steps)} - self.keep_steps:
                # Renamed first: a kill while deleting must not leave a step that looks damaged.
                aside = (self.folder / str(step)).rename(self.folder / f"{step}{_DELETING}")
                shutil.rmtree(aside)

    def _best_step(self, steps: Sequence[int]) -> int | None:
        scores = {}
        for step in steps if self.best else ():
            with contextlib.suppress(OSError, ValueError):
                score = json.loads((self.folder / str(step) / METRICS).read_text()).get(self.best)
                if score is not None:
                    scores[step] = score
        return min(scores, key=scores.get, default=None)

    def _remove_leftovers(self) -> None:
        """Of a kill or a full disk."""
        for path in self.folder.iterdir():
            if path.name.endswith(_DELETING) or _TEMPORARY in path.name:
                shutil.rmtree(path)

    def _before_commit(self) -> None:
        """Orbax calls this on the first process when all arrays are written, before the directory gets its name."""
        step, config_json, metrics = self._saving
        (folder,) = self.folder.glob(f"{step}{_TEMPORARY}*")
        (folder / CONFIG).write_text(config_json)
        finite = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
        (folder / METRICS).write_text(json.dumps(finite))
        # Orbax writes its time of commit into _TIMES after this; nothing here reads that file.
        files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != _TIMES]
        hashes = _sha256(files)
        manifest = {
            path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": sha256}
            for path, sha256 in zip(files, hashes)
        }
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))


@dataclasses.dataclass(frozen=True)
class Saved:
    """A good step of some run, of which parts are read, for fine-tuning or evaluation; changes nothing there."""

    folder: Path
    step: int

    @classmethod
    def find(cls, folder: str | Path, step: int | None = None, on_event: Callable[[str], None] = print) -> "Saved":
        """folder: of `Checkpoints`. step: None for the last good one. Raises UserError: no checkpoint, damage."""
        folder = Path(folder).absolute()
        good, damaged = _find_good(folder, step)
        if good is None:
            raise UserError(f"There is no checkpoint in {folder}.")
        for other, problem in damaged.items():
            on_event(f"Checkpoint {folder / str(other)} is damaged ({problem}); using step {good}")
        return cls(folder, good)

    def shapes(self, field: str = "params") -> PyTree:
        """ShapeDtypeStructs of a field of the state, a nested dict; empty where the state has no such field."""
        return self._tree().get(field) or {}

    def leaves(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Path, as in "opt_state/1/mu/body/embed/tokens", to each leaf of the state."""
        return leaves_by_path(self._tree())

    def read_leaves(self, wanted: dict[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
        """Some of the leaves, by path; those wanted have shape, dtype and sharding. Raises UserError where there are no
        such."""
        return _read(self.folder / str(self.step), wanted, partial=True)

    @property
    def sha256(self) -> str:
        """Of the manifest, and so of the whole step."""
        return hash_file(self.folder / str(self.step) / MANIFEST)

    def _tree(self) -> PyTree:
        tree = ocp.PyTreeCheckpointHandler().metadata(epath.Path(self.folder / str(self.step))).tree
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)

    def read(self, abstract: PyTree, field: str = "params") -> PyTree:
        """The leaves of `abstract`, a part of the field with shape, dtype and sharding at each leaf. Raises UserError
        where leaves are not those."""
        return _read(self.folder / str(self.step), {field: abstract}, partial=True)[field]


def restore_params(
    folder: str | Path,
    abstract_params: PyTree,
    step: int | None = None,
    only: Sequence[str] = ("body",),
    field: str = "params",
    on_event: Callable[[str], None] = print,
) -> PyTree:
    """The parts `only` of the parameters saved in `folder`.

    Args:
      folder: of `Checkpoints`.
      abstract_params: nested dict with at least the parts; leaves have shape, dtype and sharding.
      step: None for the last good one.
      field: of the state: 'params', or 'ema' for their average.

    Raises:
      UserError: no checkpoint, damage, parts that it lacks, leaves that are not those of `abstract_params`.
    """
    saved = Saved.find(folder, step, on_event)
    there = saved.shapes(field)
    if missing := [part for part in only if part not in there and jax.tree.leaves(abstract_params[part])]:
        raise UserError(
            f"The checkpoint {saved.folder / str(saved.step)} has no weights of {' and '.join(missing)}, only of "
            f"{', '.join(there) or 'nothing'}: a run that begins with it (init_from) trains what is missing"
        )
    return saved.read({part: abstract_params[part] for part in only}, field)


# Workdirs.

# What may differ when a run resumes: how long, on what and how it is watched. The rest decides what is learned.
MAY_CHANGE = (
    *("steps", "until", "mesh", "logging", "checkpoint", "evaluation", "profile"),
    *("model.unroll", "model.remat", "data.workers"),
)


def read_config(workdir: str | Path) -> str:
    """The JSON of the experiment that owns `workdir`, for `config.from_json`. A corpus inside the workdir, as published
    models have one, is found there also after the workdir has moved."""
    path = Path(workdir).expanduser() / CONFIG
    try:
        text = path.read_text()
    except OSError as error:
        raise UserError(f"{workdir} is not the workdir of a run: cannot read {path} ({error.strerror}).") from None
    with contextlib.suppress(ValueError, AttributeError, RecursionError):
        if "model_type" in (keys := json.loads(text).keys()) and "" not in keys:
            raise UserError(
                f"{workdir} is a Hugging Face folder: `python -m experiments.convert --from={workdir} --workdir=...` "
                "makes a run of it."
            )
    with contextlib.suppress(ValueError, KeyError, TypeError):  # of another config, or damaged: as it is
        flat, own = json.loads(text), path.parent.expanduser().absolute() / CORPUS
        if own.is_dir() and not Path(flat[_CORPUS_PATH]).expanduser().exists():
            text = json.dumps(flat | {_CORPUS_PATH: str(own)}, indent=1)
    return text


def has_checkpoint(workdir: str | Path) -> bool:
    """Whether a run has saved a step here, with which it goes on."""
    return any((Path(workdir) / "checkpoints").glob(f"*/{MANIFEST}"))


def check_workdir(
    workdir: str | Path,
    config: Config,
    may_change: Sequence[str] = MAY_CHANGE,
    begun: Callable[[Path], bool] = has_checkpoint,
) -> None:
    """Makes `workdir` the home of `config`: writes config.json there, or checks that the one there is the same.

    may_change: keys that are free. begun: whether there is anything to lose: a first start that failed may be mended
    and repeated.

    Raises:
      UserError: the workdir belongs to another experiment (the message lists the fields that differ); not writable.
    """
    workdir = Path(workdir)
    if (workdir / CONFIG).is_file():
        kind, own = _kind(read_config(workdir)), _kind(config_lib.to_json(config))  # raises for a published model's
        if kind not in (None, own):
            names = [name.rpartition(":")[2] for name in (kind, own)]
            raise UserError(
                f"{workdir} belongs to something else: its {CONFIG} is of a {names[0]}, which a {names[1]} would "
                "replace. Use another --workdir"
            )
    with disk_errors(workdir):
        if is_primary():
            workdir.mkdir(parents=True, exist_ok=True)
        if (workdir / CONFIG).exists() and begun(workdir):
            check_owner(workdir, config, may_change)
        if is_primary():
            write_text(workdir / CONFIG, config_lib.to_json(config))


def check_owner(workdir: Path, config: Config, may_change: Sequence[str] = MAY_CHANGE) -> None:
    """Raises UserError listing the fields in which `config` is not the one that the workdir belongs to."""
    owner = config_lib.from_json(read_config(workdir))
    is_free = lambda key: any(f"{key}.".startswith(f"{free}.") for free in may_change)  # noqa: E731
    rows = [row for row in config_lib.differences(owner, config) if not is_free(row[0])]
    if rows:
        listed = "\n".join(f"  {key}: {there} there, {here} here" for key, there, here in rows)
        raise UserError(
            f"{workdir} holds another experiment:\n{listed}\n"
            "Use another --workdir, or the same values to go on with that run."
        )


def _kind(text: str) -> str | None:
    """The class that a config's JSON names, 'module:Name'; None where it is damaged."""
    try:
        return json.loads(text)[""]
    except (ValueError, KeyError, TypeError):
        return None


# Reading.


def committed(folder: Path) -> list[int]:
    """The steps that are saved whole in a folder of `Checkpoints`, in order."""
    return [step for step in _numbered(folder) if (folder / str(step) / MANIFEST).is_file()]


def _numbered(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal() and path.is_dir())


def _find_good(folder: Path, step: int | None) -> tuple[int | None, dict[int, str]]:
    """(`step` or the last step that agrees with its manifest, what is wrong with each newer one)."""
    found = _numbered(folder)
    if step is not None and step not in found:
        known = ", ".join(map(str, found)) or "none"
        raise UserError(f"There is no checkpoint of step {step} in {folder}; there are: {known}.")
    damaged, good = {}, None
    if is_primary():
        for candidate in reversed(found if step is None else [step]):
            problem = _find_damage(folder / str(candidate))
            if problem is None:
                good = candidate
                break
            damaged[candidate] = problem
    good = agree(-1 if good is None else good)
    if good >= 0:
        return good, damaged
    if not found:
        return None, {}
    listed = "; ".join(f"step {step}: {problem}" for step, problem in damaged.items())
    others = [other for other in found if other not in damaged]
    hint = f"others there: {', '.join(map(str, others))}" if others else f"to start over, move {folder} away"
    raise UserError(f"No good checkpoint in {folder} ({listed}); {hint}.")


def _find_damage(folder: Path) -> str | None:
    """What differs from the manifest, or None. Sizes come first: they are cheap."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        expected = {folder / name: (entry["size"], entry["sha256"]) for name, entry in manifest.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is missing or unreadable"
    for path, (size, _) in expected.items():
        if not path.is_file():
            return f"{path.relative_to(folder)} is missing"
        if path.stat().st_size != size:
            return f"{path.relative_to(folder)} has {path.stat().st_size} bytes instead of {size}"
    for path, sha256 in zip(expected, _sha256(expected)):
        if sha256 != expected[path][1]:
            return f"the contents of {path.relative_to(folder)} have changed"
    return None


def _sha256(paths) -> list[str]:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        return list(pool.map(hash_file, paths))


def _read(folder: Path, abstract: PyTree, partial: bool = False) -> PyTree:
    """The arrays of `abstract` from one step; `partial`: the step may hold more."""
    wanted = leaves_by_path(abstract)
    orbax = ocp.PyTreeCheckpointHandler()
    saved = traverse_util.flatten_dict(orbax.metadata(epath.Path(folder)).tree, sep="/")
    _check_leaves(folder, saved, wanted, partial)
    target = traverse_util.unflatten_dict(
        {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=_sharding(x)) for name, x in wanted.items()}, sep="/"
    )
    args = ocp.args.PyTreeRestore(
        item=target, restore_args=ocp.checkpoint_utils.construct_restore_args(target), partial_restore=partial
    )
    restored = traverse_util.flatten_dict(orbax.restore(epath.Path(folder), args=args), sep="/")
    for name in wanted:
        # A partial restore returns the ShapeDtypeStruct of a leaf that is not there.
        assert isinstance(restored[name], jax.Array), name
    return jax.tree.unflatten(jax.tree.structure(abstract), [restored[name] for name in wanted])


def _check_leaves(folder: Path, saved: dict, wanted: dict, partial: bool) -> None:
    if partial:
        saved = {name: x for name, x in saved.items() if name in wanted}
    if rows := differing(saved, wanted):
        raise UserError(f"The checkpoint {folder} is of another model. Leaves that differ:\n{listed(rows)}")


def differing(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """A line for each leaf, by path, that has another shape or type there than here, or is on one side only."""
    show = lambda x: "missing" if x is None else f"{np.dtype(x.dtype).name}{list(x.shape)}"  # noqa: E731
    rows = [(name, show(there.get(name)), show(here.get(name))) for name in {**here, **there}]
    return [f"{name}: {one} there, {other} here" for name, one, other in rows if one != other]


def listed(rows: Sequence[str]) -> str:
    """Rows of a message, not too many."""
    more = [f"and {len(rows) - 12} more"] if len(rows) > 12 else []
    return "\n".join(f"  {row}" for row in [*rows[:12], *more])


def _sharding(x) -> jax.sharding.Sharding:
    return getattr(x, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.devices()[0])


def leaves_by_path(tree: PyTree) -> dict[str, Any]:
    """Path, as in "opt_state/1/mu/body/embed/tokens", to leaf."""
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in paths}


def _to_disk(tree: PyTree) -> dict[str, Any]:
    return traverse_util.unflatten_dict(leaves_by_path(tree), sep="/")


# Processes and errors.


def is_primary() -> bool:
    return jax.process_index() == 0


def agree(value: int) -> int:
    """The first process's value, everywhere: file systems may show the others an older folder."""
    return int(multihost_utils.broadcast_one_to_all(np.int32(value))) if jax.process_count() > 1 else int(value)


DISK_ERRORS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOTDIR, errno.EEXIST, errno.EISDIR),
}


@contextlib.contextmanager
def disk_errors(folder: Path):
    """Turns a disk that cannot be written into a UserError. TensorStore has the errno in a ValueError's text."""
    try:
        yield
    except (OSError, ValueError) as error:
        found = re.search(r"os_error_code='(\d+)'", str(error))
        code = int(found[1]) if found else getattr(error, "errno", None)
        if code not in DISK_ERRORS:
            raise
        raise UserError(
            f"Cannot write to {folder}: {os.strerror(code)}. What was saved before is intact; free space or mend the "
            "permissions and run the same command again, or choose another --workdir."
        ) from error


def _is_not_raised_anyway(record: logging.LogRecord) -> bool:
    """Orbax logs pages of traceback for an error that it raises too."""
    return not any(text in record.getMessage() for text in ("Handler Commit operations", "_SignalingThread.run()"))
