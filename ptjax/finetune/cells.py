"""Runs of a grid as they stand in a workdir: one folder each, whole once its cell.json is there."""

import dataclasses
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ptjax.checkpoint import disk_errors
from ptjax.config import UserError
from ptjax.tasks.base import Answer

CELLS, CELL, ERROR, RESULT, BEST = "cells", "cell.json", "error.txt", "result.json", "best"


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
            self.path.mkdir(parents=True)

    def finish(self, contents: dict[str, Any], answers: dict[str, Sequence[Answer]]) -> None:
        """Predictions of each split, and last what says that all is there."""
        with disk_errors(self.path):
            for split, some in answers.items():
                write_answers(self.path / f"{split}.jsonl", some)
            write_json(self.path / CELL, contents)

    def fail(self, error: str) -> None:
        with disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / ERROR).write_text(error + "\n", encoding="utf-8")


def write_answers(path: Path, answers: Sequence[Answer]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for answer in answers:
            file.write(json.dumps(answer, ensure_ascii=False) + "\n")


def write_json(path: Path, contents: Any) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(json.dumps(contents, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def rounded_curve(curve: Sequence[tuple[int, float]], most: int = 200) -> list[list[float]]:
    """At most so many points of [step, value], each the mean of a stretch of steps."""
    width = -(-len(curve) // most) or 1
    stretches = [curve[i : i + width] for i in range(0, len(curve), width)]
    return [[some[-1][0], float(f"{sum(value for _, value in some) / len(some):.5g}")] for some in stretches]
