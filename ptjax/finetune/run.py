"""`finetune`: every run of a task that is not done yet, and what they come to."""

import contextlib
import dataclasses
import hashlib
import json
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from ptjax.checkpoint import agree, check_workdir, is_primary
from ptjax.config import UserError
from ptjax.data.examples import Example
from ptjax.finetune.best import Best
from ptjax.finetune.cells import CELL, CELLS, RESULT, Cell, CellFolder, locked, write_json
from ptjax.finetune.config import FineTuning
from ptjax.pretrained import Pretrained
from ptjax.tasks.base import Answer, Task

# Other cells, the same ones in another way, and the same weights in another place: each cell knows which it began from.
MAY_CHANGE = ("recipe.learning_rates", "recipe.seeds", "recipe.together", "mesh", "init_from")
OnEvent = Callable[[str], None]


def finetune(config: FineTuning, workdir: str | Path, *, on_event: OnEvent = print) -> dict[str, Any]:
    """Runs the cells that are not done, and writes and returns the result (docs/tasks.md says what is in it; other
    processes than the first return nothing).

    A run that fails leaves its error and does not stop the others.

    Raises:
      UserError: what is sure to fail for every run: the model, the examples, sizes; a workdir of something else, or
        with runs of other weights or examples.
    """
    from ptjax.finetune.grid import Grid  # here: it is one kind of `Runs`

    if config.init_from is None:
        raise UserError("say what to begin from: --from=WORKDIR of a run, or of a Hugging Face folder")
    workdir = Path(workdir)
    start = Pretrained.open(config.init_from)
    with locked(workdir) if is_primary() else contextlib.nullcontext():
        check_workdir(workdir, config, MAY_CHANGE, lambda folder: any(folder.glob(f"{CELLS}/*/{CELL}")))
        kind = ZeroShot if config.task.zero_shot else Grid
        return kind(config, start, workdir, on_event if is_primary() else lambda _: None).run()


@dataclasses.dataclass(eq=False)
class Runs:
    """What a grid and a task without training share."""

    config: FineTuning
    start: Pretrained
    workdir: Path
    on_event: OnEvent

    def __post_init__(self):
        self.task: Task = self.config.task
        self.splits: dict[str, list[Example]] = {s: self.task.examples.read(s) for s in self._wanted_splits()}
        for split, examples in self.splits.items():
            self.task.check_examples(examples, labelled=split != "test")
        self.best = Best(self.workdir)
        source = self.start.source
        self.begun = {"source": {"step": source.step, "sha256": source.sha256}, "data": _hash(self.splits)}
        if is_primary():
            for cell in self.cells():
                if self.folder(cell).done:
                    self._check(cell)

    def _check(self, cell: Cell) -> None:
        """Raises UserError where a run that is done is of other weights or examples than there are now."""
        there, folder = self.folder(cell).read(), self.folder(cell).path
        for key, what in (("source", f"the weights in {self.config.init_from}"), ("data", "the examples")):
            if there.get(key) != self.begun[key]:
                raise UserError(
                    f"{what} are not those that {folder} has learned from: runs of both cannot be compared. Use "
                    f"another --workdir, or delete {folder.parent} to run them anew"
                )

    def _wanted_splits(self) -> Sequence[str]:
        raise NotImplementedError

    def cells(self) -> list[Cell]:
        raise NotImplementedError

    def folder(self, cell: Cell) -> CellFolder:
        return CellFolder.of(self.workdir, cell)

    def left(self) -> list[Cell]:
        """Those that are not done, as the first process sees it."""
        return [cell for cell in self.cells() if not agree(self.folder(cell).done)]

    def begin(self, cell: Cell) -> None:
        if is_primary():
            self.folder(cell).begin()
        agree(0)

    def finish(self, cell: Cell, contents: dict[str, Any], answers: dict[str, list[Answer]]) -> None:
        """Scores what is known, and writes all of a run."""
        scores = {
            split: self.task.score(some, self.splits[split])
            for split, some in answers.items()
            if self.task.labelled(self.splits[split], split)
        }
        contents = {"learning_rate": cell.learning_rate, "seed": cell.seed, "scores": scores, **contents, **self.begun}
        if is_primary():
            self.folder(cell).finish(contents, answers)
        agree(0)

    def fail(self, cell: Cell, error: Exception | str) -> None:
        """Keeps what a run failed with."""
        known = isinstance(error, str | UserError)
        message = str(error) if known else "".join(traceback.format_exception(error)).strip()
        if is_primary():
            self.folder(cell).fail(message)
        self.on_event(f"{self.task.name} {cell.name} failed: {message.splitlines()[0 if known else -1]}")

    def result(self, rate: float | None, parameters: tuple[int, int]) -> dict[str, Any]:
        """rate: the selected one. parameters: all, and those that learn."""
        if not is_primary():
            return {}
        done = {cell: self.folder(cell).read() for cell in self.cells() if self.folder(cell).done}
        errors = {cell.name: self.folder(cell).error for cell in self.cells()}
        total = lambda key: sum(contents[key] for contents in done.values())  # noqa: E731
        note = self.best.note()
        result = {
            "task": self.task.name,
            "kind": type(self.task).__name__,
            "metric": self.task.metric,
            "learning_rate": rate,
            "cells": [cell.name for cell in done if cell.learning_rate == rate],
            "failed": {name: error for name, error in errors.items() if error},
            "best": note and note["cell"],
            "parameters": parameters[0],
            "learning_parameters": parameters[1],
            "examples": {split: len(some) for split, some in self.splits.items()},
            "init_from": self.config.init_from,
            "fresh": self.config.fresh,
            **self.begun,
            "seconds": total("seconds"),
            "tokens": total("tokens"),
            "flops": total("flops"),
        }
        write_json(self.workdir / RESULT, result)
        return result


class ZeroShot(Runs):
    """A task that is judged by the model as it is."""

    def _wanted_splits(self):
        return [split for split in self.task.examples.splits if split != "train"]

    def cells(self):
        return [Cell()]

    def run(self) -> dict[str, Any]:
        for cell in self.left():
            self.begin(cell)
            begin = time.perf_counter()
            judge = lambda some: self.task.judge(self.start, some, fresh=self.config.fresh)  # noqa: E731
            try:
                answers = {split: judge(examples) for split, examples in self.splits.items()}
            except Exception as error:
                self.fail(cell, error)
                raise
            seconds = time.perf_counter() - begin
            contents = {"steps": 0, "best_step": 0, "loss": [], "validation": [], "seconds": seconds}
            self.finish(cell, contents | {"tokens": 0, "flops": 0.0}, answers)
        count = sum(leaf.size for leaf in jax.tree.leaves(self.start.source.shapes))
        return self.result(None, (count, 0))


def _hash(splits: dict[str, list[Example]]) -> str:
    return hashlib.sha256(json.dumps(splits, sort_keys=True).encode()).hexdigest()
