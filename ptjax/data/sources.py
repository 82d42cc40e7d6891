"""Where text comes from. Every `Source` yields documents in an order that its config and its files alone determine."""

import contextlib
import dataclasses
import glob as globbing
import gzip
import hashlib
import importlib
import io
import json
import os
import sysconfig
import tokenize
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Literal

import chz

from ptjax.config import Config, UserError


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    """One text, and where it stands ('file' or 'file:line'), for error messages.

    `group` decides on which side of a train/validation split the document falls: documents of one group stay together.
    Empty means the beginning of the text, so that equal documents stay together.
    """

    text: str
    origin: str
    group: str = ""

    def held_out(self, fraction: float) -> bool:
        """Whether the document belongs to the validation split, by a hash that is stable over machines and versions."""
        digest = hashlib.blake2b((self.group or self.text[:4096]).encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") < fraction * 2**64


@chz.chz
class Source(Config):
    """Base of text sources."""

    def read(self) -> Iterator[Document]:
        """Yields the documents; raises UserError naming file and line for what cannot be read."""
        raise NotImplementedError


@chz.chz
class Stdlib(Source):
    """The standard library of the running Python: the source of its modules, and the topics of `help()`.

    Test suites, some tools (idlelib, lib2to3, turtledemo, ensurepip) and installed packages are left out. A top-level
    package or module is one group, so that code held out for validation shares no package with training.
    """

    def read(self) -> Iterator[Document]:
        root = sysconfig.get_path("stdlib")
        left_out = {
            "test",
            "tests",
            "idlelib",
            "lib2to3",
            "turtledemo",
            "ensurepip",
            "site-packages",
            "dist-packages",
            "__pycache__",
            "pydoc_data",
        }
        paths = []
        for folder, folders, files in os.walk(root):
            folders[:] = [name for name in folders if name not in left_out]
            paths += [os.path.join(folder, name) for name in files if name.endswith(".py")]
        if not paths:
            raise UserError(
                f"source=Stdlib finds no Python source in {root}: this Python ships its library compiled; "
                "choose another source, such as source=TextFiles source.glob='my/texts/*.txt'"
            )
        for path in sorted(paths):
            relative = os.path.relpath(path, root)
            group = relative.split(os.sep)[0].removesuffix(".py")
            try:
                with tokenize.open(path) as file:  # honours a PEP 263 declaration
                    text = file.read()
            except (SyntaxError, UnicodeDecodeError):
                continue  # a handful of files that are broken on purpose
            if text:
                yield Document(text, path, group)
        from pydoc_data.topics import topics

        for name in sorted(topics):
            yield Document(topics[name], f"pydoc_data.topics[{name!r}]", f"pydoc_data.{name}")


@chz.chz
class TextFiles(Source):
    """UTF-8 text files, plain or compressed (.gz, .zst), sorted by path."""

    glob: str = chz.field(doc="files to read, such as '~/texts/**/*.txt'")
    documents: Literal["file", "blank_line"] = chz.field(
        default="file", doc="what a document is: a whole file, or the lines between blank lines"
    )

    def read(self) -> Iterator[Document]:
        for path in _matching(self.glob):
            if self.documents == "file":
                with _open(path) as file:
                    text = _decode(file.read(), path, 1)
                if text:
                    yield Document(text, path)
                continue
            lines, number = [], 0
            for number, line in _lines(path):
                if line.strip():
                    lines.append(line)
                elif lines:
                    yield Document("".join(lines), f"{path}:{number - len(lines)}")
                    lines = []
            if lines:
                yield Document("".join(lines), f"{path}:{number + 1 - len(lines)}")


@chz.chz
class JsonLines(Source):
    """One JSON object a line, plain or compressed (.gz, .zst); a document is the text in one field."""

    glob: str = chz.field(doc="files to read, such as 'data/*.jsonl.zst'")
    field: str = chz.field(default="text", doc="name of the field that holds the text")

    def read(self) -> Iterator[Document]:
        for path in _matching(self.glob):
            for number, line in _lines(path):
                if not line.strip():
                    continue
                origin = f"{path}:{number}"
                try:
                    record = json.loads(line)
                except json.JSONDecodeError as error:
                    raise UserError(f"{origin}: not a JSON object: {error}") from None
                if not isinstance(record, dict):
                    raise UserError(f"{origin}: a JSON object is wanted, this is a {type(record).__name__}")
                yield from _from_record(record, self.field, origin)


@chz.chz
class Parquet(Source):
    """Apache Parquet files; a document is the text in one column."""

    glob: str = chz.field(doc="files to read, such as 'data/*.parquet'")
    field: str = chz.field(default="text", doc="name of the column that holds the text")

    def read(self) -> Iterator[Document]:
        parquet = _require("pyarrow.parquet", "source=Parquet", "pip install 'ptjax[hf]'")
        for path in _matching(self.glob):
            try:
                with parquet.ParquetFile(path) as file:
                    names = file.schema_arrow.names
                    if self.field not in names:
                        raise UserError(f"{path}: no column {self.field!r}; source.field can be one of {_names(names)}")
                    row = 0
                    for batch in file.iter_batches(batch_size=1024, columns=[self.field]):
                        for value in batch.column(0).to_pylist():
                            row += 1
                            yield from _from_record({self.field: value}, self.field, f"{path}: row {row}")
            except (OSError, importlib.import_module("pyarrow").ArrowException) as error:
                raise UserError(f"{path} is no readable Parquet file: {error}") from error


@chz.chz
class Tfds(Source):
    """A TensorFlow Datasets data set that was prepared as array_record, read without TensorFlow."""

    name: str = chz.field(doc="data set, such as 'ag_news_subset' or 'wiki40b/en:1.3.0'")
    split: str = chz.field(default="train", doc="split, or part of one: 'train[:10%]'")
    field: str = chz.field(default="text", doc="feature that holds the text")
    data_dir: str | None = chz.field(default=None, doc="where TFDS keeps its data sets; None for ~/tensorflow_datasets")

    def read(self) -> Iterator[Document]:
        import tensorflow_datasets as tfds

        data_dir = None if self.data_dir is None else os.path.expanduser(self.data_dir)
        builder_call = f"tfds.builder({self.name!r}, data_dir={data_dir!r}, file_format='array_record')"
        command = f'python -c "import tensorflow_datasets as tfds; {builder_call}.download_and_prepare()"'
        try:
            builder = tfds.builder(self.name, data_dir=data_dir)
        except tfds.core.DatasetNotFoundError as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"source.name={self.name!r}: TFDS knows no such data set here ({reason}); if its name is "
                f"right, prepare it where TFDS can download:\n  {command}"
            ) from None
        if not builder.info.splits:
            raise UserError(
                f"the TFDS data set {self.name} is not prepared in {builder.data_dir}; this does it:\n  {command}"
            )
        if builder.info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
            raise UserError(
                f"{builder.data_dir} holds {builder.info.file_format.value} files, which only TensorFlow "
                f"reads; prepare the data set again as array_record:\n  {command}"
            )
        if self.field not in builder.info.features:
            raise UserError(
                f"the TFDS data set {self.name} has no feature {self.field!r}; source.field can be one of "
                f"{_names(builder.info.features)}"
            )
        try:
            records = builder.as_data_source(split=self.split)
        except ValueError as error:
            known = _names(builder.info.splits)
            raise UserError(f"source.split={self.split!r}: {error}; splits are {known}") from error
        for number, record in enumerate(records):
            origin = f"{self.name}[{self.split}] record {number}"
            value = record[self.field]
            text = _decode(value, origin, None) if isinstance(value, bytes) else value
            yield from _from_record({self.field: text}, self.field, origin)


@chz.chz
class HuggingFace(Source):
    """A data set of the Hugging Face hub, or a local folder that `datasets.load_dataset` reads."""

    name: str = chz.field(doc="data set, such as 'stanfordnlp/imdb'")
    split: str = chz.field(default="train", doc="split, or part of one: 'train[:10%]'")
    field: str = chz.field(default="text", doc="column that holds the text")
    subset: str | None = chz.field(default=None, doc="configuration of the data set, such as 'wikitext-103-raw-v1'")

    def read(self) -> Iterator[Document]:
        datasets = _require("datasets", "source=HuggingFace", "pip install 'ptjax[hf]'")
        try:
            records = datasets.load_dataset(self.name, self.subset, split=self.split)
        except (OSError, ValueError) as error:  # not found, no network, unknown split, a subset is wanted
            raise UserError(f"Hugging Face data set {self.name!r}, split {self.split!r}: {error}") from error
        if self.field not in records.column_names:
            raise UserError(
                f"the Hugging Face data set {self.name} has no column {self.field!r}; source.field can be "
                f"one of {_names(records.column_names)}"
            )
        for number, record in enumerate(records):
            yield from _from_record(record, self.field, f"{self.name}[{self.split}] row {number}")


@chz.chz
class Mixture(Source):
    """Several sources, interleaved so that each one's share of the text follows its weight all along.

    Ends with the first source that runs out, so that the shares hold to the end and no document comes twice.
    """

    sources: tuple[Source, ...] = chz.field(doc="the sources: sources.0=JsonLines sources.0.glob=... sources.1=...")
    weights: tuple[float, ...] = chz.field(doc="share of the text of each; any positive numbers, such as 3,1")

    @chz.validate
    def _one_positive_weight_each(self) -> None:
        if not self.sources or len(self.sources) != len(self.weights) or min(self.weights) <= 0:
            raise UserError(
                f"Mixture wants one positive weight for each source: {len(self.sources)} sources, "
                f"weights={self.weights}"
            )

    def read(self) -> Iterator[Document]:
        streams = [source.read() for source in self.sources]
        drawn = [0] * len(streams)  # characters
        while True:
            turn = min(range(len(streams)), key=lambda i: drawn[i] / self.weights[i])
            document = next(streams[turn], None)
            if document is None:
                return
            drawn[turn] += len(document.text)
            yield document


def _matching(pattern: str) -> list[str]:
    """Files of a glob, sorted."""
    paths = sorted(path for path in globbing.glob(os.path.expanduser(pattern), recursive=True) if os.path.isfile(path))
    if not paths:
        raise UserError(f"no file matches source.glob={pattern!r} (relative paths start at {os.getcwd()})")
    return paths


@contextlib.contextmanager
def _open(path: str) -> Iterator[BinaryIO]:
    """The file's bytes, uncompressed; what goes wrong in reading them is a UserError."""
    try:
        opened = gzip.open(path) if path.endswith(".gz") else open(path, "rb")
        with io.BufferedReader(_Zstd(opened, path)) if path.endswith(".zst") else opened as file:
            yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is damaged: {error}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


class _Zstd(io.RawIOBase):
    """A Zstandard file of any number of frames. Unlike the package's own reader it notices one that is cut off."""

    def __init__(self, file: BinaryIO, path: str):
        self._package = _require("zstandard", f"reading {path}", "pip install 'ptjax[zstd]'")
        self._file, self._data = file, b""
        self._frame = self._package.ZstdDecompressor().decompressobj()
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not self._ready:
            self._data = self._data or self._file.read(1 << 17)
            if not self._data:
                if not self._frame.eof:
                    raise EOFError("it ends in the middle of a frame")
                return 0
            if self._frame.eof:
                self._frame = self._package.ZstdDecompressor().decompressobj()
            try:
                self._ready = memoryview(self._frame.decompress(self._data))
            except self._package.ZstdError as error:
                raise EOFError(error) from error
            self._data = self._frame.unused_data if self._frame.eof else b""
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size

    def close(self) -> None:
        self._file.close()
        super().close()


def _lines(path: str) -> Iterator[tuple[int, str]]:
    """(number from 1, line with its end) of a text file; only '\\n' ends a line."""
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            yield number, _decode(line, path, number)


def _decode(data: bytes, path: str, first_line: int | None) -> str:
    try:
        return data.decode("utf-8-sig" if first_line == 1 else "utf-8")  # a byte order mark is no text
    except UnicodeDecodeError as error:
        line = None if first_line is None else first_line + data[: error.start].count(b"\n")
        where = path if line is None else f"{path}:{line}"
        guess = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin1"
        raise UserError(
            f"{where}: not UTF-8 (byte 0x{data[error.start]:02x}): convert the file, for example with "
            f"`iconv -f {guess} -t utf-8`"
        ) from None


def _from_record(record: dict, field: str, origin: str) -> Iterable[Document]:
    """The document in a record's field; nothing for an empty text."""
    if field not in record:
        raise UserError(f"{origin}: no field {field!r}; source.field can be one of {_names(record)}")
    text = record[field]
    if not isinstance(text, str):
        raise UserError(f"{origin}: field {field!r} holds {type(text).__name__}, not text")
    return [Document(text, origin)] if text else []


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "(none)"


def _require(module: str, what: str, command: str):
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(f"{what} needs the package {module.partition('.')[0]}: {command}") from None
