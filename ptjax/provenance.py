"""What a run records of itself, so that others can hold it against another run.

    workdir/provenance.json  `Provenance`: tokenizer, data, what the run began with, code and machine
    workdir/batches.txt      line k: a hash of the row ids of step k's global batch, counted from 1; "?" where not known

Hashes of parameters tell leaves apart that differ by accident: another seed, another order of drawing, a flipped bit.
They are no proof against someone who wants two leaves to hash alike. Those of files and of batches are cryptographic.
"""

import dataclasses
import functools
import hashlib
import json
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import chz
import jax
import jax.numpy as jnp
import numpy as np

import ptjax
from ptjax.checkpoint import disk_errors, is_primary, leaves_by_path
from ptjax.config import Config, UserError
from ptjax.data.manifest import hash_file
from ptjax.data.pipeline import Pipeline, Shard
from ptjax.files import write_json, write_text
from ptjax.types import Array, PyTree, TrainState

if TYPE_CHECKING:
    from ptjax.train import Run

FILE, BATCHES, UNKNOWN = "provenance.json", "batches.txt", "?"


@dataclasses.dataclass(frozen=True)
class Provenance:
    """Contents of provenance.json.

    tokenizer: SHA-256. data: `Pipeline.fingerprint` of the training split. initial: path of a parameter, as
    "body/embed/tokens" -> {'shape', 'dtype', 'hash'} before the first step; empty where the run began before there were
    records. branched, begun_with: what `branch_from` and `init_from` named, or None. parts: by whom steps were made:
    {'from_step', 'code', 'ptjax', 'jax', 'python', 'device', 'processes'}, another one wherever a resume differs.

    A branch's record goes back to the first step of the run that it left: its initial leaves, batches and parts.
    """

    tokenizer: str
    data: str
    initial: dict[str, dict[str, Any]]
    branched: dict[str, Any] | None
    begun_with: dict[str, Any] | None
    parts: tuple[dict[str, Any], ...]

    @classmethod
    def read(cls, workdir: str | Path) -> "Provenance":
        """Raises UserError: missing or damaged."""
        path = Path(workdir) / FILE
        try:
            contents = json.loads(path.read_text())
            return cls(**contents | {"parts": tuple(contents["parts"])})
        except FileNotFoundError:
            raise UserError(f"{workdir} has no {FILE}: its run keeps no record of what it saw") from None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path} is damaged ({error}): nothing can be proven of this run") from None

    def write(self, workdir: Path) -> None:
        with disk_errors(workdir):
            write_json(workdir / FILE, dataclasses.asdict(self))

    def before(self, step: int) -> tuple[dict[str, Any], ...]:
        """The parts that steps 1 to `step` were made by."""
        return tuple(part for part in self.parts if part["from_step"] < step)


def read_batches(workdir: str | Path, steps: int | None = None) -> list[str]:
    """The hash of each step's batch, of the first `steps` (None: of all there are); "?" where nothing is known."""
    path = Path(workdir) / BATCHES
    lines = path.read_text().splitlines() if path.is_file() else []
    return lines if steps is None else (lines + [UNKNOWN] * steps)[:steps]


# The record of a run in progress.


class Record:
    """Keeps the record of a run in its workdir. All processes call every method; the first one writes."""

    def __init__(self, pipeline: Pipeline, shard: Shard, workdir: Path, batches: Sequence[str]):
        """batches: lines of the steps that are done."""
        self.pipeline, self.shard, self.workdir, self._file = pipeline, shard, workdir, None
        if is_primary():
            with disk_errors(workdir):
                write_text(workdir / BATCHES, "".join(f"{line}\n" for line in batches))
                self._file = open(workdir / BATCHES, "a", encoding="ascii")

    @classmethod
    def begin(cls, run: "Run", workdir: Path, state: TrainState) -> "Record":
        """Of a run before its first step."""
        hashes = leaf_hashes(state.params, run.mesh)
        own, batches = Provenance(run.tokenizer.hash, run.pipeline.fingerprint, hashes, None, None, ()), []
        if run.beginning:
            own, batches = run.beginning.recorded(own)
        if is_primary():
            _add_part(own, run, run.experiment.first_step).write(workdir)
        return cls(run.pipeline, run.shard, workdir, batches)

    @classmethod
    def resume(cls, run: "Run", workdir: Path, step: int) -> "Record":
        """Of a run that goes on behind `step`. Raises UserError where its tokenizer or data are no longer those that it
        began with."""
        if is_primary():
            tokenizer, data = run.tokenizer.hash, run.pipeline.fingerprint
            there = Provenance(tokenizer, data, {}, None, None, ())  # of a run from before there were records
            if (workdir / FILE).is_file():
                there = Provenance.read(workdir)
            for what, one, other in (("tokenizer", there.tokenizer, tokenizer), ("data", there.data, data)):
                if one != other:
                    raise UserError(
                        f"{workdir} began with another {what} than now stands in {run.experiment.data.corpus.path}: "
                        f"{one[:16]} there, {other[:16]} here. Restore the prepared folder, or use another --workdir"
                    )
            _add_part(there, run, step).write(workdir)
        return cls(run.pipeline, run.shard, workdir, read_batches(workdir, step) if is_primary() else [])

    def add(self, step: int, index_B: np.ndarray) -> None:
        """Takes in the batch of step `step`, counted from 0. index: of this process's rows."""
        rows_B = index_B
        if self.shard.count > 1:  # the rows of all, as each finds them by itself
            size = self.pipeline.batch_size
            rows_B = self.pipeline.row_ids(step * size, (step + 1) * size)
            own = size // self.shard.count
            if not np.array_equal(rows_B[self.shard.index * own : (self.shard.index + 1) * own], index_B):
                raise RuntimeError(f"step {step + 1} was given other rows than its place in the data says")
        if self._file:
            self._file.write(hashlib.blake2b(rows_B.astype("<i4").tobytes(), digest_size=8).hexdigest() + "\n")

    def flush(self) -> None:
        """Before a checkpoint is saved: what has been trained on is then known."""
        if self._file:
            with disk_errors(self.workdir):
                self._file.flush()

    def close(self) -> None:
        if self._file:
            self._file.close()


def _add_part(there: Provenance, run: "Run", step: int) -> Provenance:
    """With this process as a further part, where it is not like the last one."""
    devices = run.mesh.devices.flatten()
    here = {
        "code": code_hashes(run.experiment),
        "ptjax": ptjax.__version__,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "device": f"{devices[0].device_kind} x{len(devices)}",
        "processes": jax.process_count(),
    }
    parts = there.before(step)
    if not parts or parts[-1] != {"from_step": parts[-1]["from_step"]} | here:
        parts += ({"from_step": step} | here,)
    return dataclasses.replace(there, parts=parts)


# Code.


def code_hashes(config: Config) -> dict[str, str]:
    """SHA-256 of ptjax's code that trains, and of each file that defines a class in the config that is not ptjax's.
    What such a file imports is not looked at."""
    own = [cls for value in _classes(config) for cls in value.__mro__ if issubclass(cls, Config)]
    modules = {cls.__module__ for cls in own if not cls.__module__.startswith("ptjax.") or _is_a_guest(cls.__module__)}
    files = {name: getattr(sys.modules.get(name), "__file__", None) for name in sorted(modules)}
    return {"ptjax": _own_code()} | {name: hash_file(Path(file)) if file else UNKNOWN for name, file in files.items()}


def _classes(config: Config) -> set[type]:
    values = [type(config), *chz.beta_to_blueprint_values(config).values()]
    return {value for value in values if isinstance(value, type)}


def _is_a_guest(module: str) -> bool:
    """Whether it is one of the folders that are only installed below ptjax: they run experiments and are no part of
    what is learned."""
    return module.split(".")[1] in ("configs", "experiments")


# What looks at runs and trains none: a page may be drawn otherwise, and runs are as they were.
ONLOOKERS = ("check", "compare", "leaderboard", "report", "bootstrap", "jobs", "plot", "provenance", "summary")


@functools.cache
def _own_code() -> str:
    folder, whole = Path(ptjax.__file__).parent, hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        name = path.relative_to(folder)
        onlooker = name.with_suffix("").parts[0] in ONLOOKERS
        if not (onlooker or _is_a_guest(f"ptjax.{'.'.join(name.parts)}")):
            whole.update(f"{name.as_posix()} {hash_file(path)}\n".encode())
    return whole.hexdigest()


# Parameters.


def leaf_hashes(params: PyTree, mesh: jax.sharding.Mesh) -> dict[str, dict[str, Any]]:
    """Path of each leaf -> {'shape', 'dtype', 'hash'}: 128 bits of its elements' bits and places, the same however the
    leaf is divided. Computed where it lives: no host holds any of it."""
    named = leaves_by_path(params)
    words = np.asarray(_hasher(mesh)(list(named.values())))
    return {
        name: {"shape": list(leaf.shape), "dtype": leaf.dtype.name, "hash": own.astype(">u4").tobytes().hex()}
        for (name, leaf), own in zip(named.items(), words)
    }


@functools.cache
def _hasher(mesh: jax.sharding.Mesh) -> Callable[[list[Array]], Array]:
    """leaves -> u32[leaves, 4], on every process: compiled once for leaves of the same shapes."""
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return jax.jit(lambda leaves: jnp.stack([_hash(x) for x in leaves]), out_shardings=whole)


@jax.jit  # within `_hasher`: leaves of the same shape are traced once
def _hash(x: Array) -> Array:
    """u32[4]: four sums, modulo 2^32, over the elements of their bits mixed with their place. Sums that wrap around are
    the same in any order, and with them the hash on any mesh."""
    if x.dtype == bool:
        x = x.astype(jnp.uint8)
    bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * min(x.dtype.itemsize, 4)}")).astype(jnp.uint32)

    def mixed(seed: int) -> Array:
        place = jnp.full(bits.shape, seed, jnp.uint32)
        for axis in range(bits.ndim):  # each by itself: a leaf may have more than 2^32 elements
            place = _mix(place * np.uint32(0x9E3779B1) + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis))
        return _mix(bits ^ place)

    # All four at once: XLA reduces one array, on CPUs, only when it is in memory.
    add = lambda sums, words: tuple(map(jnp.add, sums, words))
    words = tuple(mixed(seed) for seed in range(4))
    return jnp.stack(jax.lax.reduce(words, (np.uint32(0),) * 4, add, range(bits.ndim)))


def _mix(h: Array) -> Array:
    """The finalizer of MurmurHash3 (Appleby, 2011): every bit of the result depends on every bit of h."""
    h = (h ^ (h >> 16)) * np.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * np.uint32(0xC2B2AE35)
    return h ^ (h >> 16)
