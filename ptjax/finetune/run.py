"""`finetune`: every run of a grid that is not done yet, and what they come to."""

import dataclasses
import math
import shutil
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import chz
import jax
import numpy as np

from ptjax.checkpoint import Checkpoints, check_workdir
from ptjax.config import UserError, to_json
from ptjax.data.examples import Example
from ptjax.data.pipeline import permutation
from ptjax.finetune.cells import BEST, CELLS, ERROR, RESULT, Cell, CellFolder, rounded_curve, write_json
from ptjax.finetune.config import FineTuned, FineTuning
from ptjax.finetune.tuner import Tuner
from ptjax.pretrained import Pretrained
from ptjax.tasks.base import Answer, Task
from ptjax.tasks.encoded import Encoded
from ptjax.tasks.tuning import Full
from ptjax.types import PyTree
from ptjax.weights import TOKENIZER

MAY_CHANGE = (
    "recipe.learning_rates",
    "recipe.seeds",
    "recipe.together",
    "mesh",
)  # other cells, the same way of running
SILENCE = 30.0  # seconds after which a run says where it is
OnEvent = Callable[[str], None]


def finetune(config: FineTuning, workdir: str | Path, *, on_event: OnEvent = print) -> dict[str, Any]:
    """Runs the cells that are not done, and writes and returns the result (docs/tasks.md says what is in it).

    A run that fails leaves its error and does not stop the others.

    Raises:
      UserError: what is sure to fail for every run: the model, the examples, sizes; a workdir of another fine-tuning.
    """
    if config.init_from is None:
        raise UserError("say what to begin from: --from=WORKDIR of a run, or of a Hugging Face folder")
    workdir = Path(workdir)
    start = Pretrained.open(config.init_from)
    check_workdir(workdir, config, MAY_CHANGE, lambda folder: any(folder.glob(f"{CELLS}/*/cell.json")))
    kind = ZeroShot if config.task.zero_shot else Grid
    return kind(config, start, workdir, on_event).run()


@dataclasses.dataclass(eq=False)
class Runs:
    """What a grid and a task without training share."""

    config: FineTuning
    start: Pretrained
    workdir: Path
    on_event: OnEvent

    def __post_init__(self):
        self.task: Task = self.config.task
        self.splits = {split: self.task.examples.read(split) for split in self._wanted_splits()}

    def _wanted_splits(self) -> list[str]:
        raise NotImplementedError

    def cells(self) -> list[Cell]:
        raise NotImplementedError

    def folder(self, cell: Cell) -> CellFolder:
        return CellFolder.of(self.workdir, cell)

    def scores(self, answers: dict[str, list[Answer]]) -> dict[str, dict[str, float]]:
        """Of each split whose labels are known."""
        return {
            split: self.task.score(some, self.splits[split])
            for split, some in answers.items()
            if labelled(self.task, self.splits[split])
        }

    def failed(self) -> dict[str, str]:
        folders = {cell.name: self.folder(cell) for cell in self.cells()}
        errors = {name: folder.path / ERROR for name, folder in folders.items() if not folder.done}
        return {name: path.read_text(encoding="utf-8").strip() for name, path in errors.items() if path.is_file()}

    def result(self, selected: Sequence[Cell], rate: float | None, parameters: tuple[int, int]) -> dict[str, Any]:
        done = [self.folder(cell).read() for cell in self.cells() if self.folder(cell).done]
        total = lambda key: sum(cell[key] for cell in done)  # noqa: E731
        result = {
            "task": self.task.name,
            "kind": type(self.task).__name__,
            "metric": self.task.metric,
            "learning_rate": rate,
            "cells": [cell.name for cell in selected],
            "failed": self.failed(),
            "parameters": parameters[0],
            "learning_parameters": parameters[1],
            "examples": {split: len(some) for split, some in self.splits.items()},
            "init_from": self.config.init_from,
            "fresh": self.config.fresh,
            "seconds": total("seconds"),
            "tokens": total("tokens"),
            "flops": total("flops"),
        }
        if jax.process_index() == 0:
            write_json(self.workdir / RESULT, result)
        return result


class ZeroShot(Runs):
    """A task that is judged by the model as it is."""

    def _wanted_splits(self):
        return [split for split in self.task.examples.splits if split != "train"]

    def cells(self):
        return [Cell()]

    def run(self):
        [cell] = self.cells()
        folder = self.folder(cell)
        if not folder.done:
            folder.begin()
            begin = time.perf_counter()
            judge = lambda some: self.task.judge(self.start, some, fresh=self.config.fresh)  # noqa: E731
            answers = {split: judge(examples) for split, examples in self.splits.items()}
            contents = {"learning_rate": None, "seed": None, "scores": self.scores(answers)}
            contents |= {"steps": 0, "best_step": 0, "loss": [], "validation": []}
            contents |= {"seconds": time.perf_counter() - begin, "tokens": 0, "flops": 0.0}
            folder.finish(contents, answers)
        count = sum(leaf.size for leaf in jax.tree.leaves(self.start.source.shapes))
        return self.result([cell], None, (count, 0))


class Grid(Runs):
    """Learning rates by seeds."""

    def __post_init__(self):
        super().__post_init__()
        self.task = self.task.resolved(self.splits["train"]).fitted(self.start)
        tokenizer = self.start.tokenizer
        train = limited(self.splits["train"], self.task.limit)
        if not labelled(self.task, train):
            raise UserError(f"task {self.task.name}: its training examples have no labels")
        if not labelled(self.task, self.splits["validation"]):
            raise UserError(f"task {self.task.name}: its validation examples have no labels, and nothing else selects")
        self.splits["train"] = train
        self.encoded = {split: self.task.encode(examples, tokenizer) for split, examples in self.splits.items()}
        self.steps = self.config.recipe.steps(self.task, len(self.encoded["train"]))
        self.tuners: dict[int, Tuner] = {}

    def _wanted_splits(self):
        splits = self.task.examples.splits
        if "train" not in splits:
            raise UserError(f"task {self.task.name} has no training examples: name them in task.examples.train")
        return splits

    def cells(self):
        recipe = self.config.recipe
        return [Cell(rate, seed) for rate in recipe.learning_rates for seed in recipe.seeds]

    def tuner(self, together: int = 1) -> Tuner:
        """Compiled once for all runs; a group that is not full has one of its own."""
        if together not in self.tuners:
            self.tuners[together] = Tuner(self.config, self.task, self.start, self.steps, together)
        return self.tuners[together]

    def run(self):
        left = [cell for cell in self.cells() if not self.folder(cell).done]
        if left and not self.config.fresh:
            self.on_event(f"{self.task.name}: {self.tuner().beginning}")
        size = self.config.recipe.together
        for group in (left[i : i + size] for i in range(0, len(left), size)):
            try:
                self._run(group)
            except Exception as error:  # one that fails does not take the others with it
                message = str(error) if isinstance(error, UserError) else traceback.format_exc()
                for cell in group:
                    if not self.folder(cell).done:
                        self.folder(cell).fail(message)
                        self.on_event(f"{self.task.name} {cell.name} failed: {message.splitlines()[-1]}")
        done = [cell for cell in self.cells() if self.folder(cell).done]
        if not done:
            raise UserError(
                f"every run of {self.task.name} failed; the first one: {next(iter(self.failed().values()))}"
            )
        rate = selected_rate({cell: self.folder(cell).read() for cell in done}, self.task.metric)
        return self.result([cell for cell in done if cell.learning_rate == rate], rate, self.tuner().parameters)

    def _run(self, group: list[Cell]) -> None:
        tuner, train, recipe = self.tuner(len(group)), self.encoded["train"], self.config.recipe
        for cell in group:
            self.folder(cell).begin()
        seeds = [cell.seed for cell in group]
        state = tuner.init([cell.learning_rate for cell in group], seeds)
        logs = [Log(cell) for cell in group]
        begin, losses = time.perf_counter(), []
        said = begin
        stops = recipe.evaluation_steps(self.steps)
        for step in range(self.steps):
            state, metrics, length = tuner.train(state, train, seeds, step)
            losses.append((step + 1, metrics["loss"]))
            for log in logs:
                log.count(train, tuner.learner.experiment.batch_size, step, tuner.flops(length))
            if step + 1 in stops:
                fetched = [(at, np.atleast_1d(loss)) for at, loss in jax.device_get(losses)]
                losses = []
                for run, log in enumerate(logs):
                    if not log.over:
                        log.loss += [(at, float(values[run])) for at, values in fetched]
                        self._validate(tuner, log, step + 1, tuner.params(state, run))
                if all(log.over for log in logs):
                    break
                said = time.perf_counter()
            elif time.perf_counter() - said > SILENCE:
                said = time.perf_counter()
                loss = float(np.mean(jax.device_get(losses[-1][1])))
                names = " and ".join(log.cell.name for log in logs)
                self.on_event(f"{self.task.name} {names}: step {step + 1} of {self.steps}, loss {loss:.4f}")
        seconds = (time.perf_counter() - begin) / len(group)
        for log in logs:
            self._finish(tuner, log, seconds)

    def _validate(self, tuner: Tuner, log: "Log", step: int, params: PyTree) -> None:
        if not math.isfinite(log.loss[-1][1]):
            log.over, log.error = True, f"the loss of step {step} is not finite: a lower learning rate may help"
            return
        score = self.task.score(self._answers(tuner, params, "validation"), self.splits["validation"])[self.task.metric]
        log.validated(step, score, params, self.config.recipe.patience)
        self.on_event(
            f"{self.task.name} {log.cell.name}: step {step} of {self.steps}, loss {log.recent():.4f}, "
            f"validation {self.task.metric} {score:.4f}"
        )

    def _answers(self, tuner: Tuner, params: PyTree, split: str) -> list[Answer]:
        encoded = self.encoded[split]
        outputs = tuner.predict(params, encoded)
        return self.task.answers(self.splits[split], encoded, outputs, self.start.tokenizer)

    def _finish(self, tuner: Tuner, log: "Log", seconds: float) -> None:
        cell = log.cell
        if log.error or log.params is None:
            self.folder(cell).fail(log.error or "no validation gave a score")
            self.on_event(f"{self.task.name} {cell.name} failed: {log.error}")
            return
        answers = {split: self._answers(tuner, log.params, split) for split in self.splits if split != "train"}
        contents = {"learning_rate": cell.learning_rate, "seed": cell.seed, "scores": self.scores(answers)}
        contents |= {"steps": log.loss[-1][0], "best_step": log.best_step, "loss": rounded_curve(log.loss)}
        contents |= {"validation": log.validation, "seconds": seconds, "tokens": log.tokens, "flops": log.flops}
        best = max((found["scores"]["validation"][self.task.metric] for found in self._done()), default=-math.inf)
        if contents["scores"]["validation"][self.task.metric] > best:
            self._keep(tuner, log)
        if jax.process_index() == 0:
            self.folder(cell).finish(contents, answers)

    def _done(self) -> list[dict]:
        return [self.folder(cell).read() for cell in self.cells() if self.folder(cell).done]

    def _keep(self, tuner: Tuner, log: "Log") -> None:
        """As the best model, in place of the one before."""
        folder, old = self.workdir / f"{BEST}.tmp", self.workdir / BEST
        shutil.rmtree(folder, ignore_errors=True)
        params = tuner.merged(log.params)
        plain = chz.replace(self.task, tuning=Full())  # as `merged` makes them
        config = FineTuned(model=tuner.learner.experiment.model, objective=plain)
        checkpoints = Checkpoints(folder / "checkpoints", keep=1, asynchronous=False)
        checkpoints.save(log.best_step, {"params": params}, config_json=to_json(config))
        checkpoints.close()
        if jax.process_index() == 0:
            (folder / TOKENIZER).mkdir()
            for name, data in self.start.tokenizer.files().items():
                (folder / TOKENIZER / name).write_bytes(data)
            (folder / "config.json").write_text(to_json(config))
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)


@dataclasses.dataclass
class Log:
    """What is known of a run while it goes on. params: those of the best validation."""

    cell: Cell
    loss: list[tuple[int, float]] = dataclasses.field(default_factory=list)
    validation: list[tuple[int, float]] = dataclasses.field(default_factory=list)
    params: PyTree = None
    best_step: int = 0
    worse: int = 0
    tokens: int = 0
    flops: float = 0.0
    over: bool = False
    error: str | None = None

    def count(self, train: Encoded, batch_size: int, step: int, flops: float) -> None:
        if not self.over:
            self.tokens += int(train.size[train.train_rows(self.cell.seed, step, batch_size)].sum())
            self.flops += flops

    def recent(self) -> float:
        """Mean loss since the validation before."""
        since = self.validation[-2][0] if len(self.validation) > 1 else 0
        return float(np.mean([value for step, value in self.loss if step > since]))

    def validated(self, step: int, score: float, params: PyTree, patience: int | None) -> None:
        """The first of equal scores is the best."""
        better = not self.validation or score > max(value for _, value in self.validation)
        self.validation.append((step, score))
        if better:
            self.params, self.best_step, self.worse = params, step, 0
        else:
            self.worse += 1
        self.over = patience is not None and self.worse >= patience


def selected_rate(cells: dict[Cell, dict], metric: str) -> float:
    """The rate with the best mean validation headline over seeds, of those that have failed for the fewest; of equal
    ones the lowest."""
    rates = sorted({cell.learning_rate for cell in cells})
    scores = {rate: [c["scores"]["validation"][metric] for cell, c in cells.items() if cell.learning_rate == rate]
              for rate in rates}  # fmt: skip
    return max(rates, key=lambda rate: (len(scores[rate]), np.mean(scores[rate]), -rate))


def limited(examples: Sequence[Example], limit: int | None) -> list[Example]:
    """At most so many, the same ones for every model and seed."""
    if limit is None or limit >= len(examples):
        return list(examples)
    return [examples[i] for i in sorted(permutation(len(examples), limit)[:limit].tolist())]


def labelled(task: Task, examples: Sequence[Example]) -> bool:
    """Whether the answers are known."""
    try:
        for example in examples:
            task.reference(example)
    except KeyError:
        return False
    return True
