"""Runs of a grid as they stand in a workdir: one folder each, whole once its cell.json is there."""

import contextlib
import dataclasses
import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ptjax.checkpoint import disk_errors
from ptjax.config import UserError
from ptjax.files import write_text
from ptjax.tasks.base import Answer

CELLS, CELL, ERROR, RESULT, BEST, LOCK = "cells", "cell.json", "error.txt", "result.json", "best", "lock"


@dataclasses.dataclass(frozen=True)
class Cell:
    """A run of the grid. learning_rate, seed: None for a task that is judged without training."""

    learning_rate: float | None = None
    seed: int | None = None

    @property
    def name(self) -> str:
        return "zero-shot" if self.seed is None else f"lr{self.learning_rate:.12g}-seed{self.seed}"


@dataclasses.dataclass(frozen=True)
class CellFolder:
    """Where a cell is kept."""

    path: Path

    @classmethod
    def of(cls, workdir: str | Path, cell: Cell) -> "CellFolder":
        return cls(Path(workdir) / CELLS / cell.name)

    @property
    def done(self) -> bool:
        return (self.path / CELL).is_file()

    def read(self) -> dict[str, Any]:
        """Contents of cell.json. Raises UserError where it is damaged."""
        try:
            return json.loads((self.path / CELL).read_text())
        except ValueError as error:
            raise UserError(
                f"{self.path / CELL} is damaged ({error}): delete {self.path}, and it is run again"
            ) from None

    def begin(self) -> None:
        """An empty folder: what a run that was stopped has left is gone."""
        with disk_errors(self.path):
            shutil.rmtree(self.path, ignore_errors=True)
            self.path.mkdir(parents=True, exist_ok=True)

    def finish(self, contents: dict[str, Any], answers: Mapping[str, Sequence[Answer]]) -> None:
        """Predictions of each split, and last what says that all is there."""
        with disk_errors(self.path):
            for split, some in answers.items():
                write_answers(self.path / f"{split}.jsonl", some)
            write_json(self.path / CELL, contents)

    def fail(self, error: str) -> None:
        with disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / ERROR).write_text(error + "\n", encoding="utf-8")

    @property
    def error(self) -> str | None:
        """What it failed with; None where it is done, or was never begun."""
        path = self.path / ERROR
        return path.read_text(encoding="utf-8").strip() if path.is_file() and not self.done else None


def selected_rate(cells: Mapping[Cell, dict], metric: str) -> float:
    """The rate with the best mean validation headline over seeds, of those that have failed for the fewest; of equal
    ones the lowest. cells: contents of cell.json, of those that are done."""
    scores: dict[float, list[float]] = {}
    for cell, contents in cells.items():
        scores.setdefault(cell.learning_rate, []).append(contents["scores"]["validation"][metric])
    return max(scores, key=lambda rate: (len(scores[rate]), np.mean(scores[rate]), -rate))


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Keeps other processes from the workdir. Raises UserError where one is at it."""
    with disk_errors(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        file = open(workdir / LOCK, "a")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is fine-tuning in {workdir}: wait for it, or end it") from None
        yield


def write_answers(path: Path, answers: Sequence[Answer]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for answer in answers:
            file.write(json.dumps(answer, ensure_ascii=False) + "\n")


def write_json(path: Path, contents: Any) -> None:
    """Whole or not at all."""
    write_text(path, json.dumps(contents, indent=1) + "\n")
