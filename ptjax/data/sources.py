"""Where text comes from. Every `Source` yields documents in an order that its config and its files alone determine."""

import dataclasses
import hashlib
import importlib
import json
import os
import sysconfig
import tokenize
from collections.abc import Iterable, Iterator
from typing import Literal

import chz

from ptjax.config import Config, UserError
from ptjax.data.files import decode, listed, matching, numbered_lines, opened, require


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


STDLIB_LEFT_OUT = frozenset(
    {
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
)
"""Folders that `Stdlib` does not read."""


@chz.chz
class Stdlib(Source):
    """The standard library of the running Python: the source of its modules, and the topics of `help()`.

    Test suites, some tools (idlelib, lib2to3, turtledemo, ensurepip) and installed packages are left out. A top-level
    package or module is one group, so that code held out for validation shares no package with training.
    """

    def read(self) -> Iterator[Document]:
        root = sysconfig.get_path("stdlib")
        paths = []
        for folder, folders, files in os.walk(root):
            folders[:] = [name for name in folders if name not in STDLIB_LEFT_OUT]
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
        for path in matching(self.glob, "source.glob"):
            if self.documents == "file":
                with opened(path) as file:
                    text = decode(file.read(), path, 1)
                if text:
                    yield Document(text, path)
                continue
            lines, number = [], 0
            for number, line in numbered_lines(path):
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
        for path in matching(self.glob, "source.glob"):
            for number, line in numbered_lines(path):
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
        parquet = require("pyarrow.parquet", "source=Parquet", "pip install 'ptjax[hf]'")
        for path in matching(self.glob, "source.glob"):
            try:
                with parquet.ParquetFile(path) as file:
                    names = file.schema_arrow.names
                    if self.field not in names:
                        raise UserError(f"{path}: no column {self.field!r}; source.field can be one of {listed(names)}")
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
        builder = open_tfds(self.name, self.data_dir, "source.name")
        if self.field not in builder.info.features:
            raise UserError(
                f"the TFDS data set {self.name} has no feature {self.field!r}; source.field can be one of "
                f"{listed(builder.info.features)}"
            )
        try:
            records = builder.as_data_source(split=self.split)
        except ValueError as error:
            known = listed(builder.info.splits)
            raise UserError(f"source.split={self.split!r}: {error}; splits are {known}") from error
        for number, record in enumerate(records):
            origin = f"{self.name}[{self.split}] record {number}"
            value = record[self.field]
            text = decode(value, origin, None) if isinstance(value, bytes) else value
            yield from _from_record({self.field: text}, self.field, origin)


@chz.chz
class HuggingFace(Source):
    """A data set of the Hugging Face hub, or a local folder that `datasets.load_dataset` reads."""

    name: str = chz.field(doc="data set, such as 'stanfordnlp/imdb'")
    split: str = chz.field(default="train", doc="split, or part of one: 'train[:10%]'")
    field: str = chz.field(default="text", doc="column that holds the text")
    subset: str | None = chz.field(default=None, doc="configuration of the data set, such as 'wikitext-103-raw-v1'")

    def read(self) -> Iterator[Document]:
        datasets = require("datasets", "source=HuggingFace", "pip install 'ptjax[hf]'")
        try:
            records = datasets.load_dataset(self.name, self.subset, split=self.split)
        except (OSError, ValueError) as error:  # not found, no network, unknown split, a subset is wanted
            raise UserError(f"Hugging Face data set {self.name!r}, split {self.split!r}: {error}") from error
        if self.field not in records.column_names:
            raise UserError(
                f"the Hugging Face data set {self.name} has no column {self.field!r}; source.field can be "
                f"one of {listed(records.column_names)}"
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


def open_tfds(name: str, data_dir: str | None, key: str):
    """Builder of a TFDS data set that is prepared as array_record, which its `as_data_source` reads.

    Args:
        data_dir: where TFDS keeps its data sets; None for ~/tensorflow_datasets.
        key: what the user gave the name as, for the errors.
    """
    import tensorflow_datasets as tfds

    data_dir = None if data_dir is None else os.path.expanduser(data_dir)
    builder_call = f"tfds.builder({name!r}, data_dir={data_dir!r}, file_format='array_record')"
    command = f'python -c "import tensorflow_datasets as tfds; {builder_call}.download_and_prepare()"'
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{key}={name!r}: TFDS knows no such data set here ({reason}); if its name is "
            f"right, prepare it where TFDS can download:\n  {command}"
        ) from None
    if not builder.info.splits:
        raise UserError(f"the TFDS data set {name} is not prepared in {builder.data_dir}; this does it:\n  {command}")
    if builder.info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
        raise UserError(
            f"{builder.data_dir} holds {builder.info.file_format.value} files, which only TensorFlow "
            f"reads; prepare the data set again as array_record:\n  {command}"
        )
    return builder


def _from_record(record: dict, field: str, origin: str) -> Iterable[Document]:
    """The document in a record's field; nothing for an empty text."""
    if field not in record:
        raise UserError(f"{origin}: no field {field!r}; source.field can be one of {listed(record)}")
    text = record[field]
    if not isinstance(text, str):
        raise UserError(f"{origin}: field {field!r} holds {type(text).__name__}, not text")
    return [Document(text, origin)] if text else []
