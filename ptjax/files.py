"""Files and folders that are whole or not there, whoever else writes them at the same time."""

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    temporary = _temporary(path)
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def write_json(path: Path, contents: Any) -> None:
    """contents: all its numbers finite; ValueError otherwise."""
    write_text(path, json.dumps(contents, indent=1, allow_nan=False) + "\n")


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """A folder as `fill` makes it, in place of the one before."""
    new, old = _temporary(path), _temporary(path).with_suffix(".old")
    try:
        new.mkdir()
        fill(new)
        if path.exists():
            path.rename(old)
        new.rename(path)
    finally:
        for folder in (new, old):
            shutil.rmtree(folder, ignore_errors=True)


def finite(contents: Any) -> Any:
    """The same with None for numbers that are not finite, which JSON has not."""
    if isinstance(contents, dict):
        return {key: finite(value) for key, value in contents.items()}
    if isinstance(contents, (list, tuple)):
        return [finite(value) for value in contents]
    return None if isinstance(contents, float) and not math.isfinite(contents) else contents


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")
