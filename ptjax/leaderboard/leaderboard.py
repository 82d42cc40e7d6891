"""A leaderboard as a folder: what was submitted, its runs, and the ranking.

WORKDIR/config.json                       the suite
WORKDIR/NAME/submission.json              what takes part under this name; it stays until its folder is deleted
WORKDIR/NAME/TASK/                        workdir of the fine-tuning, with log.txt
WORKDIR/NAME/predictions/TASK/SEED.jsonl  of the selected runs, ready to hand in
WORKDIR/leaderboard.json, .html           the ranking
"""

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ptjax.checkpoint import CONFIG, disk_errors
from ptjax.config import Config, UserError, from_json, to_json
from ptjax.finetune import FineTuning
from ptjax.finetune.cells import write_json
from ptjax.leaderboard.board import rank
from ptjax.leaderboard.entry import Entry
from ptjax.leaderboard.predictions import find_predictions
from ptjax.leaderboard.references import References
from ptjax.leaderboard.submission import Submission
from ptjax.leaderboard.suite import PREDICTIONS, Suite
from ptjax.leaderboard.unit import Unit
from ptjax.report import leaderboard_page

SUBMISSION, JSON, PAGE = "submission.json", "leaderboard.json", "leaderboard.html"


@dataclasses.dataclass(frozen=True, eq=False)
class Leaderboard:
    """A suite, and who takes part in it."""

    suite: Suite
    workdir: Path
    submissions: list[Submission]

    @classmethod
    def open(cls, suite: Suite, workdir: Path, submissions: Sequence[Submission]) -> "Leaderboard":
        """These submissions, and those that the workdir has already.

        Raises UserError: no submission; one that is neither a model nor predictions; examples that cannot be read; a
        workdir with finished runs of another suite.
        """
        if other := _other_owner(workdir):
            raise UserError(f"{workdir} holds {other}, not a leaderboard: name another --workdir")
        if twice := {s.name for s in submissions if [t.name for t in submissions].count(s.name) > 1}:
            raise UserError(f"two submissions are named {', '.join(sorted(twice))}")
        there = {path.parent.name: _read(path) for path in workdir.glob(f"*/{SUBMISSION}")}
        named = there | {submission.name: submission for submission in submissions}
        if not named:
            raise UserError("nothing has been submitted: --submission=NAME=FOLDER")
        board = cls(suite, workdir, sorted(named.values(), key=lambda submission: submission.name))
        for submission in board.submissions:
            if not submission.is_model():
                find_predictions(submission.folder, [task.name for task in suite.tasks])
        board.references  # what would fail after all runs fails now
        for unit in board.units:
            if not unit.is_done():
                unit.claim()
        with disk_errors(workdir):
            workdir.mkdir(parents=True, exist_ok=True)
            _write(workdir / CONFIG, suite)
            for submission in board.submissions:
                (workdir / submission.name).mkdir(exist_ok=True)
                _write(workdir / submission.name / SUBMISSION, submission)
        return board

    @functools.cached_property
    def units(self) -> list[Unit]:
        """Every fine-tuning there is, of one task after the other."""
        return [
            self._unit(submission, task)
            for task in self.suite.tasks
            for submission in self.submissions
            if submission.is_model()
        ]

    @functools.cached_property
    def references(self) -> dict[str, References]:
        """By name of the task."""
        return {task.name: References.read(task) for task in self.suite.tasks}

    def _unit(self, submission: Submission, task) -> Unit:
        config = FineTuning(task=task, init_from=submission.path, fresh=submission.fresh, recipe=self.suite.recipe)
        return Unit(submission.name, config, self.workdir / submission.name / task.name)

    def report(self) -> dict[str, Any]:
        """Ranks what there is, and writes leaderboard.json, leaderboard.html and predictions. What is wrong with a
        submission is in the report."""
        board = rank(self.suite, self.references, [self._entry(submission) for submission in self.submissions])
        with disk_errors(self.workdir):
            write_json(self.workdir / JSON, board)
            (self.workdir / PAGE).write_text(leaderboard_page(board), encoding="utf-8")
        return board

    def _entry(self, submission: Submission) -> Entry:
        if not submission.is_model():
            try:
                return Entry.of_predictions(submission.name, submission.folder, self.references)
            except UserError as error:
                failed = [{"task": None, "cell": None, "error": str(error)}]
                return Entry(submission.name, {}, submission.described(), failed=failed)
        results, failed, costs = {}, [], []
        for unit in self.units:
            if unit.submission != submission.name:
                continue
            task = unit.config.task.name
            problems = unit.failed()
            try:
                result = unit.read(self.references[task], self.workdir / submission.name / PREDICTIONS / task)
                if result is not None:
                    results[task] = result
                    costs.append(unit.cost())
            except UserError as error:
                problems = problems | {None: str(error)}
            failed += [{"task": task, "cell": cell, "error": error} for cell, error in problems.items()]
        return Entry(submission.name, results, submission.described(), _total(costs), submission.pretraining(), failed)


def _total(costs: Sequence[dict[str, float]]) -> dict[str, float | None] | None:
    """Of the fine-tunings of a submission: sizes of the largest model, the rest in all."""
    if not costs:
        return None
    total = {
        key: max((c[key] for c in costs if key in c), default=None) for key in ("parameters", "learning_parameters")
    }
    return total | {key: sum(cost[key] for cost in costs) for key in ("flops", "tokens", "seconds")}


def _other_owner(workdir: Path) -> str | None:
    """What else lives in the folder."""
    try:
        owner = json.loads((workdir / CONFIG).read_text())[""].rpartition(":")[2]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return "something else"
    return None if owner == Suite.__name__ else f"another kind of run ({owner})"


def _read(path: Path) -> Submission:
    try:
        return from_json(path.read_text(), Submission)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _write(path: Path, config: Config) -> None:
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(to_json(config))
    temporary.replace(path)
