"""Files as users have them, plain or compressed; what is wrong with one is a UserError naming file and line."""

import contextlib
import glob as globbing
import gzip
import importlib
import io
import os
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from ptjax.config import UserError


def matching(pattern: str, key: str) -> list[str]:
    """Files of a glob, sorted. key: what the user wrote it as, for the error."""
    path = os.path.expanduser(pattern)
    if os.path.isfile(path):  # also where its name has brackets
        return [path]
    paths = sorted(path for path in globbing.glob(path, recursive=True) if os.path.isfile(path))
    if not paths:
        raise UserError(f"no file matches {key}={pattern!r} (relative paths start at {os.getcwd()})")
    return paths


@contextlib.contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """The file's bytes, uncompressed; what goes wrong in reading them is a UserError."""
    try:
        raw = gzip.open(path) if path.endswith(".gz") else open(path, "rb")
        with io.BufferedReader(_Zstd(raw, path)) if path.endswith(".zst") else raw as file:
            yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is damaged: {error}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


class _Zstd(io.RawIOBase):
    """A Zstandard file of any number of frames. Unlike the package's own reader it notices one that is cut off."""

    def __init__(self, file: BinaryIO, path: str):
        self._package = require("zstandard", f"reading {path}", "pip install 'ptjax[zstd]'")
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


def numbered_lines(path: str) -> Iterator[tuple[int, str]]:
    """(number from 1, line with its end) of a text file; only '\\n' ends a line."""
    with opened(path) as file:
        for number, line in enumerate(file, start=1):
            yield number, decode(line, path, number)


def decode(data: bytes, path: str, first_line: int | None) -> str:
    """UTF-8 text. first_line: number of its first line, None where lines are not counted."""
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


def listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "(none)"


def require(module: str, what: str, command: str):
    """The module; without it, an error that says what needs it and the command that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(f"{what} needs the package {module.partition('.')[0]}: {command}") from None
