"""What of a submission is ranked and shown."""

import dataclasses
from pathlib import Path
from typing import Any

from ptjax.config import UserError
from ptjax.leaderboard.predictions import check_labels, find_predictions, read_predictions
from ptjax.leaderboard.references import References
from ptjax.tasks import Answer


@dataclasses.dataclass(frozen=True)
class Run:
    """One seed. answers: of each reference, in their order. scores: by every metric, the headline first."""

    answers: list[Answer]
    scores: dict[str, float]

    @classmethod
    def scored(cls, answers: list[Answer], references: References) -> "Run":
        return cls(answers, references.task.score(answers, references.examples))


@dataclasses.dataclass(frozen=True)
class Result:
    """On one task.

    runs: those that are done, of as many as were asked for (None: of these).
    grid: [learning rate, seed, validation headline] of every run of the grid.
    curves: {learning_rate, seed, loss, validation} of every run of the grid.
    predictions: by seed, to be handed in.
    """

    runs: list[Run]
    asked: int | None = None
    learning_rate: float | None = None
    grid: list[list] = dataclasses.field(default_factory=list)
    curves: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    predictions: dict[int, list[Answer]] = dataclasses.field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether no run is lacking."""
        return self.asked is None or len(self.runs) == self.asked


@dataclasses.dataclass(frozen=True)
class Entry:
    """results: by task, of those that it has. failed: {task, cell, error}. The rest as in leaderboard.json."""

    name: str
    results: dict[str, Result]
    config: dict[str, str] = dataclasses.field(default_factory=dict)
    cost: dict[str, float] | None = None
    pretraining: dict[str, Any] | None = None
    failed: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @classmethod
    def of_predictions(cls, name: str, folder: Path, references: dict[str, References]) -> "Entry":
        """Raises UserError with a line for each file that is not what it should be."""
        results, mistakes = {}, []
        for task, paths in find_predictions(folder, list(references)).items():
            runs = []
            for path in paths:
                try:
                    answers = read_predictions(path, references[task])
                    check_labels(path, references[task], answers)
                    runs.append(Run.scored(answers, references[task]))
                except UserError as error:
                    mistakes.append(str(error))
            results[task] = Result(runs)
        if mistakes:
            raise UserError("\n".join(mistakes))
        return cls(name, results, {"path": str(folder)})
