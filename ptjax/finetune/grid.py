"""A grid of runs: every learning rate with every seed, over one compiled step."""

import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ptjax.checkpoint import is_primary
from ptjax.config import UserError
from ptjax.data.examples import Example
from ptjax.data.pipeline import permutation
from ptjax.finetune.cells import Cell, selected_rate
from ptjax.finetune.log import Log, rounded_curve
from ptjax.finetune.run import Runs
from ptjax.finetune.tuner import Tuner
from ptjax.tasks.base import Answer
from ptjax.types import PyTree

SILENCE = 30.0  # seconds after which a run says where it is


class Grid(Runs):
    """Learning rates by seeds."""

    def __post_init__(self):
        super().__post_init__()
        train = self.splits["train"] = limited(self.splits["train"], self.task.limit)
        self.task = self.task.resolved(train).fitted(self.start)
        tokenizer = self.start.tokenizer
        self.encoded = {split: self.task.encode(examples, tokenizer) for split, examples in self.splits.items()}
        steps = self.config.recipe.steps(self.task, len(self.encoded["train"]))
        self.tuner = Tuner(
            self.config, self.task, self.start, steps, min(self.config.recipe.together, len(self.cells()))
        )

    def _wanted_splits(self):
        splits = self.task.examples.splits
        if "train" not in splits:
            raise UserError(f"task {self.task.name} has no training examples: name them in task.examples.train")
        return splits

    def cells(self):
        recipe = self.config.recipe
        return [Cell(rate, seed) for rate in recipe.learning_rates for seed in recipe.seeds]

    def run(self) -> dict[str, Any]:
        left = self.left()
        if left and not self.config.fresh:
            self.on_event(f"{self.task.name}: {self.tuner.beginning}")
        cells, size = self.cells(), self.tuner.together
        for start in range(0, len(cells), size):
            # Always the same ones together, whatever is done: a run under vmap then repeats to the last bit. A group
            # that is not full repeats its last run.
            group = [cells[min(i, len(cells) - 1)] for i in range(start, start + size)]
            wanted = [cell for cell in dict.fromkeys(group) if cell in left]
            if not wanted:
                continue
            logs = [Log(cell) for cell in group]
            try:
                for cell in wanted:
                    self.begin(cell)
                seconds = self._train(logs) / size
                for cell in wanted:
                    self._finish(logs[group.index(cell)], seconds)
            except Exception as error:  # one that fails does not take the others with it
                for cell in wanted:
                    if not self.folder(cell).done:
                        self.fail(cell, error)
        if not is_primary():
            return {}
        done = {cell: self.folder(cell).read() for cell in cells if self.folder(cell).done}
        if not done:
            problem = next((self.folder(cell).error for cell in cells if self.folder(cell).error), "")
            raise UserError(f"every run of {self.task.name} failed; the first one: {problem}")
        return self.result(selected_rate(done, self.task.metric), self.tuner.parameters)

    def _train(self, logs: list[Log]) -> float:
        """Trains all to their ends; how long it took, in seconds."""
        tuner, train, recipe = self.tuner, self.encoded["train"], self.config.recipe
        seeds = [log.cell.seed for log in logs]
        state = tuner.init([log.cell.learning_rate for log in logs], seeds)
        stops = recipe.evaluation_steps(tuner.steps)
        begin = said = time.perf_counter()
        losses = []
        for step in range(tuner.steps):
            rows = [train.train_rows(seed, step, recipe.batch_size) for seed in seeds]
            state, loss, flops = tuner.train(state, train, rows)
            losses.append((step + 1, loss))
            for log, some in zip(logs, rows):
                if not log.over:
                    log.tokens, log.flops = log.tokens + int(train.counts[some].sum()), log.flops + flops
            if step + 1 in stops:
                fetched = [(at, np.atleast_1d(loss)) for at, loss in jax.device_get(losses)]
                losses, said = [], time.perf_counter()
                for run, log in enumerate(logs):
                    if not log.over and log.learned([(at, float(values[run])) for at, values in fetched]):
                        self._validate(log, tuner.params(state, run))
                if all(log.over for log in logs):
                    break
            elif time.perf_counter() - said > SILENCE:
                said = time.perf_counter()
                names = " and ".join(log.cell.name for log in logs)
                mean = float(np.mean(jax.device_get(loss)))
                self.on_event(f"{self.task.name} {names}: step {step + 1} of {tuner.steps}, loss {mean:.4f}")
        return time.perf_counter() - begin

    def _validate(self, log: Log, params: PyTree) -> None:
        answers, metric = self._answers(params, "validation"), self.task.metric
        score = self.task.score(answers, self.splits["validation"])[metric]
        log.validated(score, answers, lambda: self.tuner.copy(params), self.config.recipe.patience)
        self.on_event(
            f"{self.task.name} {log.cell.name}: step {log.loss[-1][0]} of {self.tuner.steps}, loss {log.recent():.4f}, "
            f"validation {metric} {score:.4f}"
        )

    def _answers(self, params: PyTree, split: str) -> list[Answer]:
        encoded = self.encoded[split]
        return self.task.answers(self.splits[split], encoded, self.tuner.predict(params, encoded), self.start.tokenizer)

    def _finish(self, log: Log, seconds: float) -> None:
        if log.params is None:
            self.fail(log.cell, log.problem or "no validation gave a score")
            return
        if log.problem:
            self.on_event(f"{self.task.name} {log.cell.name} ended early: {log.problem}")
        answers = {"validation": log.answers}
        if "test" in self.splits:
            answers["test"] = self._answers(log.params, "test")
        if self.best.beaten_by(log.best):
            model, tokenizer = self.tuner.learner.experiment.model, self.start.tokenizer
            merged = self.task.tuning.merged(log.params)
            self.best.replace(log.cell, log.best, log.best_step, model, self.task, tokenizer, merged)
        contents = {"steps": log.loss[-1][0], "best_step": log.best_step, "loss": rounded_curve(log.loss)}
        contents |= {"validation": log.validation, "seconds": seconds, "tokens": log.tokens, "flops": log.flops}
        self.finish(log.cell, contents, answers)
        log.params = None  # the device has no more use for them


def limited(examples: Sequence[Example], limit: int | None) -> list[Example]:
    """At most so many, the same ones for every model and seed; a smaller limit takes some of a larger one's."""
    if limit is None or limit >= len(examples):
        return list(examples)
    return [examples[i] for i in sorted(permutation(len(examples), 0)[:limit].tolist())]
