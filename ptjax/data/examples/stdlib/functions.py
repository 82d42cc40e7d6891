"""Functions of the running Python's standard library: which files, on which side of a split, and their text."""

import ast
import dataclasses
import functools
import hashlib
import os
import sysconfig
import textwrap
import tokenize
from collections.abc import Iterator

import chz

from ptjax.config import UserError
from ptjax.data.examples.base import Examples, Split
from ptjax.data.sources import STDLIB_LEFT_OUT, Document

VALIDATION_FRACTION = 0.05
"""The share that a pre-training on `Stdlib` has to hold out (it is the default) to have seen no unseen file."""
MOST_OF_A_FILE = 30  # that no file's habits weigh much
NO_CODE = STDLIB_LEFT_OUT - {"idlelib", "lib2to3", "turtledemo", "ensurepip"} | {"idle_test", "encodings"}
"""Folders of tests, of what is installed, and of codecs, which are tables and the same few lines again and again."""


@dataclasses.dataclass(frozen=True, slots=True)
class SourceFile:
    """One module. name: its path in the library, with '/'. package: the folder or module at the top that it is of.
    unseen: no pre-training on `Stdlib` that holds out VALIDATION_FRACTION or more has read it."""

    path: str
    name: str
    package: str
    unseen: bool

    @property
    def split(self) -> Split:
        if not self.unseen:
            return "train"
        return "validation" if rank(self.name) < 2**63 else "test"


@dataclasses.dataclass(frozen=True, slots=True)
class Function:
    """A function or method that stands in no other function, without its decorators and indentation.

    id: 'file:qualified.name', with ':2', ':3', ... where a file defines it again. tree: the text, parsed.
    """

    id: str
    text: str
    tree: ast.FunctionDef | ast.AsyncFunctionDef = dataclasses.field(compare=False, repr=False)


@chz.chz
class StdlibExamples(Examples):
    """Base of tasks whose true labels are computed from the source code of the running Python: no downloads.

    Sides are dealt by file, through hashes: for one version of Python they are the same on every machine. Unless the
    task says otherwise, training files are those that `Stdlib` gives to pre-training too (so their text may have been
    seen, never their labels), and validation and test files are unseen: of packages that `Stdlib` leaves out (idlelib,
    lib2to3, turtledemo), or that it holds out as soon as validation_fraction is 0.05, the default. No text is on two
    sides. Pythons that ship without those packages have fewer examples there.
    """

    train: int = chz.field(default=2000, doc="at most so many training examples; 0: none are given")
    validation: int = chz.field(default=500, doc="at most so many validation examples; 0: none are given")
    test: int = chz.field(default=500, doc="at most so many test examples; 0: none are given")
    longest: int = chz.field(default=300, doc="characters of the longest function")

    @chz.validate
    def _sizes(self):
        if min(self.train, self.validation, self.test) < 0:
            raise ValueError("train, validation and test count examples: at least 0")
        if self.longest < 100:
            raise ValueError(f"longest={self.longest}: at least 100 characters, or hardly a function is left")

    @property
    def available(self):
        return tuple(split for split in ("train", "validation", "test") if getattr(self, split) > 0)


def rank(text: str) -> int:
    """A hash in [0, 2**64), the same on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


@functools.cache
def source_files() -> tuple[SourceFile, ...]:
    """All files with code, tests left out, in the order of a hash. Raises UserError where there are none."""
    root = sysconfig.get_path("stdlib")
    files = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in NO_CODE]
        for path in (os.path.join(folder, name) for name in names if name.endswith(".py")):
            name = os.path.relpath(path, root).replace(os.sep, "/")
            package = name.partition("/")[0].removesuffix(".py")
            unseen = package in STDLIB_LEFT_OUT or Document("", path, package).held_out(VALIDATION_FRACTION)
            files.append(SourceFile(path, name, package, unseen))
    if not files:
        raise UserError(
            f"there is no Python source in {root}: this Python ships its library compiled; tasks on the standard "
            "library need one that has it"
        )
    return tuple(sorted(files, key=lambda file: (rank(file.name), file.name)))


@functools.cache
def functions(file: SourceFile, longest: int) -> tuple[Function, ...]:
    """Those of at least two lines and 60 characters, at most `longest`, in their order; none of a file that is no
    Python."""
    try:
        with tokenize.open(file.path) as opened:  # honours a PEP 263 declaration
            text = opened.read()
        tree = ast.parse(text)
    except (SyntaxError, ValueError, OSError):  # a few files are broken on purpose
        return ()
    lines = text.split("\n")  # not splitlines, for which a form feed ends a line
    found, times = [], {}
    for name, node in _definitions(tree, ""):
        times[name] = times.get(name, 0) + 1
        raw = "\n".join(lines[node.lineno - 1 : node.end_lineno])
        source = textwrap.dedent(raw).rstrip()
        if node.end_lineno == node.lineno or not 60 <= len(source) <= longest:
            continue
        try:
            body = ast.parse(source).body
        except SyntaxError:  # a string or a comment that stands further left than its function
            continue
        again = f":{times[name]}" if times[name] > 1 else ""
        found.append(Function(f"{file.name}:{name}{again}", source, body[0]))
    return tuple(found)


def dealt(split: Split, longest: int) -> Iterator[Function]:
    """Functions of the files of a split, at most MOST_OF_A_FILE of one, in the order of hashes, but for texts that came
    before them: test's first, then those of validation, then those of train."""
    seen = set()
    for side in ("test", "validation", "train"):
        for file in source_files():
            found = functions(file, longest) if file.split == side else ()
            for function in sorted(found, key=lambda function: rank(function.id))[:MOST_OF_A_FILE]:
                if function.text not in seen:
                    seen.add(function.text)
                    if side == split:
                        yield function
        if side == split:
            return


def _definitions(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """(qualified name, node) of functions that no function holds."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + child.name, child
        elif isinstance(child, ast.ClassDef):
            yield from _definitions(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
            yield from _definitions(child, prefix)
