"""Folders of safetensors: read tensor by tensor, written as bounded shards, whole or not at all.

Nothing that a file says is believed: the `safetensors` library proves its header, the rest is proven here, and both
before a tensor is read. Pickles are refused, for reading one runs its code.
"""

import contextlib
import dataclasses
import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ptjax.checkpoint import listed
from ptjax.config import UserError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}
CODES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
MAX_SHARD_BYTES = 2 << 30
_MAX_JSON = 100 << 20  # as safetensors allows a header


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Where one tensor lies. dtype: safetensors' code. offset: of its first byte in the file."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int


class Tensors(Mapping[str, Tensor]):
    """The tensors of a folder, or of one file, by name. Opening it reads headers alone.

    Raises UserError, naming the file: damaged, cut off, not what its index says, or pickled.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        files = _files(self.path)
        self._found: dict[str, Tensor] = {}
        for file, expected in files.items():
            found = _header(file)
            if expected is not None and expected != found.keys():
                rows = [f"{name}: in the index alone" for name in sorted(expected - found.keys())]
                rows += [
                    f"{name}: not in the index, or in it for another file" for name in sorted(found.keys() - expected)
                ]
                raise UserError(f"{self.path / INDEX} is not the index of {file}:\n{listed(rows)}")
            self._found |= found

    def __getitem__(self, name: str) -> Tensor:
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def check_floats(self, names) -> None:
        """Raises UserError where one of `names` is not of a type that weights have."""
        rows = [f"{name} is {self[name].dtype}" for name in names if self[name].dtype not in DTYPES]
        if rows:
            raise UserError(f"{self.path}: weights are {', '.join(DTYPES)}; convert them first:\n{listed(rows)}")

    def read(self, name: str) -> np.ndarray:
        """The tensor, in its own dtype and read-only, mapped into memory: the disk is read where the array is, and
        nothing stays in memory once it is dropped."""
        tensor = self[name]
        dtype = DTYPES[tensor.dtype]
        if 0 in tensor.shape:
            return np.zeros(tensor.shape, dtype)
        count = int(np.prod(tensor.shape, dtype=np.int64)) * dtype.itemsize
        raw = np.memmap(tensor.path, np.uint8, mode="r", offset=tensor.offset, shape=(count,))
        return raw.view(np.ndarray).view(dtype).reshape(tensor.shape)


def read_json(path: Path, kind: type = dict) -> Any:
    """The JSON object (or list) in a stranger's file. Raises UserError for anything else."""
    try:
        if path.stat().st_size > _MAX_JSON:
            raise UserError(f"{path} is larger than {_MAX_JSON >> 20} MiB, which no such file is")
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"There is no {path}: a folder of Hugging Face's has one") from None
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error})") from None
    if not isinstance(found, kind):
        raise UserError(f"{path} holds a {type(found).__name__}, where a {kind.__name__} is wanted")
    return found


def _files(path: Path) -> dict[Path, set[str] | None]:
    """File -> the names that an index promises of it, or None without index."""
    if path.is_file():
        _refuse_pickle([path])
        return {path: None}
    if not path.is_dir():
        raise UserError(f"There is no {path}: name a folder with {WEIGHTS} and config.json, or a file of safetensors")
    if (path / WEIGHTS).is_file():
        return {path / WEIGHTS: None}
    if not (path / INDEX).is_file():
        there = sorted(file for file in path.iterdir() if file.is_file())
        other = [file.name for file in there if file.suffix == ".safetensors"]
        _refuse_pickle([] if other else there)
        hint = f"; there are {', '.join(other)}: name one of them" if other else ""
        raise UserError(f"{path} has neither {WEIGHTS} nor {INDEX}{hint}")
    promised = read_json(path / INDEX).get("weight_map")
    if not isinstance(promised, dict) or not all(isinstance(file, str) for file in promised.values()):
        raise UserError(f"{path / INDEX} has no weight_map from names of tensors to files")
    files: dict[Path, set[str] | None] = {}
    for name, file in promised.items():
        # The name of a file of this folder, whatever the system; a link that is there is its owner's doing.
        if not file.endswith(".safetensors") or any(c in file for c in "/\\:\0"):
            raise UserError(f"{path / INDEX} puts {name} into {file!r}, which is no file of safetensors in that folder")
        files.setdefault(path / file, set()).add(name)
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise UserError(f"{path} lacks {len(missing)} of the {len(files)} files of its index:\n{listed(missing)}")
    return files


def _refuse_pickle(files: list[Path]) -> None:
    for file in files:
        if file.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl"):
            raise UserError(
                f"{file} is a pickle, which runs whatever code it holds when it is read, so ptjax reads none. Where "
                "you trust it, convert it with torch and transformers: "
                "`AutoModel.from_pretrained(FOLDER).save_pretrained(OTHER, safe_serialization=True)`"
            )


def _header(path: Path) -> dict[str, Tensor]:
    """What the file says it holds, proven: every tensor inside the file, none over another, no byte left over."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise UserError("reading weights needs the package safetensors: pip install 'ptjax[hf]'") from None
    try:
        with safe_open(path, framework="np"):
            pass
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged or no file of safetensors: {error}") from None

    def pairs(items):
        names = [name for name, _ in items]
        if len(set(names)) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise UserError(f"{path} holds {', '.join(twice[:5])} more than once")
        return dict(items)

    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size), object_pairs_hook=pairs)
    header.pop("__metadata__", None)
    return {
        name: Tensor(path, entry["dtype"], tuple(entry["shape"]), 8 + size + entry["data_offsets"][0])
        for name, entry in header.items()
    }


# Writing.


class Writer:
    """Writes tensors of known shapes into `folder`, in any order and one at a time, as transformers names files.

    dtype: float32, bfloat16 or float16. One file where everything fits `max_shard_bytes`, else shards and their index;
    within a file tensors lie by name, as safetensors itself writes them.
    """

    def __init__(
        self,
        folder: Path,
        shapes: Mapping[str, tuple[int, ...]],
        dtype: str = "float32",
        max_shard_bytes: int = MAX_SHARD_BYTES,
    ):
        self._code = CODES[dtype]
        self._missing = set(shapes)
        itemsize = DTYPES[self._code].itemsize
        sizes = {name: itemsize * int(np.prod(shapes[name], dtype=np.int64)) for name in sorted(shapes)}
        self.bytes = sum(sizes.values())
        free = shutil.disk_usage(folder).free
        if free < self.bytes:
            raise UserError(f"{folder} has {free >> 20} MiB free, and the model takes {(self.bytes >> 20) + 1} MiB")
        shards: list[list[str]] = [[]]
        for name, size in sizes.items():
            if shards[-1] and sum(sizes[one] for one in shards[-1]) + size > max_shard_bytes:
                shards.append([])
            shards[-1].append(name)
        count = len(shards)
        self.files = (
            [WEIGHTS] if count == 1 else [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
        )
        self._found: dict[str, Tensor] = {}
        for file, names in zip(self.files, shards):
            self._lay_out(folder / file, {name: tuple(shapes[name]) for name in names}, sizes)
        if count > 1:
            weight_map = {name: file for file, names in zip(self.files, shards) for name in names}
            index = {"metadata": {"total_size": self.bytes}, "weight_map": weight_map}
            (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")

    def _lay_out(self, path: Path, shapes: dict[str, tuple[int, ...]], sizes: dict[str, int]) -> None:
        """Writes the header and makes room for the tensors."""
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # without which transformers refuses a file
        begin = 0
        for name, shape in shapes.items():
            offsets = [begin, begin + sizes[name]]
            header[name] = {"dtype": self._code, "shape": list(shape), "data_offsets": offsets}
            begin = offsets[1]
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with open(path, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + begin)
        for name, shape in shapes.items():
            offset = 8 + len(text) + header[name]["data_offsets"][0]
            self._found[name] = Tensor(path, self._code, shape, offset)

    def write(self, name: str, values: np.ndarray) -> None:
        """Raises UserError for a finite number that the type cannot hold."""
        tensor = self._found[name]
        assert values.shape == tensor.shape, (name, values.shape, tensor.shape)
        with np.errstate(over="ignore"):
            cast = np.ascontiguousarray(values, DTYPES[tensor.dtype])
        if cast.dtype != values.dtype and not np.array_equal(np.isfinite(cast), np.isfinite(values)):
            largest = np.abs(values[np.isfinite(values)]).max()
            raise UserError(f"{name} has a value of {largest:.3g}, too large for {cast.dtype.name}: use bfloat16")
        with open(tensor.path, "r+b") as file:
            file.seek(tensor.offset)
            file.write(cast.reshape(-1).view(np.uint8))
        self._missing.remove(name)

    def close(self) -> None:
        """Proves that every tensor was written, once, and that all of it is on the disk."""
        assert not self._missing, sorted(self._missing)
        for path in {tensor.path for tensor in self._found.values()}:
            with open(path, "rb") as file:
                os.fsync(file.fileno())


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` that becomes it when the block ends well, and vanishes when it does not.

    A `target` that is there is replaced: whether it may be is the caller's to say.
    """
    # A name of its own: another process may be writing the same folder.
    own = f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}"
    temporary, old = target.with_name(f"{own}.partial"), target.with_name(f"{own}.old")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary.mkdir()
    try:
        yield temporary
        if target.exists():
            target.rename(old)
        try:
            temporary.rename(target)
        except OSError as error:
            if old.exists() and not target.exists():
                old.rename(target)
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            raise UserError(f"another process has written {target} meanwhile: it stays as that one left it") from None
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
