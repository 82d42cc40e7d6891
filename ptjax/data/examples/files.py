"""Examples that stand in files: which files a split is made of, and that no id comes twice."""

import dataclasses
import os
from collections.abc import Iterable, Iterator
from typing import TypeVar

import chz

from ptjax.config import UserError
from ptjax.data.examples.base import Example, Examples, Split
from ptjax.data.files import matching

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class File:
    """name: tells it from the others of its split: its path below their common folder, without endings. alone: whether
    it is all of the split."""

    path: str
    name: str
    alone: bool

    @property
    def prefix(self) -> str:
        """Makes ids that are unique in the file unique in the split."""
        return "" if self.alone else f"{self.name}-"


@chz.chz
class FileExamples(Examples):
    """Base of examples from files, plain or compressed (.gz, .zst)."""

    train: str | None = chz.field(default=None, doc="file of the training examples, or files: 'data/train-*.tsv'")
    validation: str | None = chz.field(default=None, doc="file or files; None: some of train are held out")
    test: str | None = chz.field(default=None, doc="file or files, with labels or without")

    @chz.validate
    def _some_file(self):
        if not self.available:
            raise ValueError(f"{type(self).__name__} has no file: give examples.train, .validation or .test")

    @property
    def available(self):
        return tuple(split for split in ("train", "validation", "test") if getattr(self, split) is not None)

    def files(self, split: Split) -> list[File]:
        """Sorted by path. Raises UserError where there is none."""
        paths = matching(getattr(self, split), f"examples.{split}")
        root = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
        names = [os.path.relpath(os.path.abspath(path), root) for path in paths]
        names = [os.path.splitext(name.removesuffix(".gz").removesuffix(".zst"))[0] for name in names]
        return [File(path, name, len(paths) == 1) for path, name in zip(paths, names)]


def filled(path: str, items: Iterable[T]) -> Iterator[T]:
    """The items, of which there has to be one."""
    item = None
    for item in items:
        yield item
    if item is None:
        raise UserError(f"{path} holds no examples")


def unique(examples: Iterable[tuple[str, Example]]) -> Iterator[Example]:
    """The examples of (origin, example). Raises UserError naming both places of an id that comes twice."""
    places: dict[str, str] = {}
    for origin, example in examples:
        first = places.setdefault(example["id"], origin)
        if first != origin:
            raise UserError(f"{origin}: the id {example['id']!r:.80} is that of {first} too; ids have to be unique")
        yield example


def checked_text(value, what: str, origin: str) -> str:
    """value, where it is text that can be read. what: what it is, such as "column 'text'"."""
    if not isinstance(value, str):
        raise UserError(f"{origin}: {what} holds {type(value).__name__}, not text")
    if not value.strip():
        raise UserError(f"{origin}: {what} is empty")
    return checked_characters(value, what, origin)


def checked_characters(value: str, what: str, origin: str) -> str:
    """value, where a file can hold it."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UserError(f"{origin}: {what} has half of a surrogate pair (\\ud800 to \\udfff), no character") from None
    return value
