"""A leaderboard as a folder: what was submitted, its runs, and the ranking.

WORKDIR/config.json                       the suite
WORKDIR/NAME/submission.json              what takes part under this name; it stays until its folder is deleted
WORKDIR/NAME/TASK/                        workdir of the fine-tuning, with log.txt
WORKDIR/NAME/predictions/TASK/SEED.jsonl  of the selected runs, ready to hand in
WORKDIR/leaderboard.json, .html           the ranking
"""

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import chz

from ptjax.checkpoint import CONFIG, disk_errors
from ptjax.config import UserError, from_json, to_json
from ptjax.finetune import FineTuning
from ptjax.leaderboard.board import rank
from ptjax.leaderboard.entry import Entry
from ptjax.files import write_folder, write_json, write_text
from ptjax.leaderboard.predictions import find_predictions, write_predictions
from ptjax.leaderboard.owner import other_owner
from ptjax.leaderboard.references import References
from ptjax.leaderboard.submission import Submission
from ptjax.leaderboard.suite import PREDICTIONS, Suite
from ptjax.leaderboard.unit import Damaged, Unit
from ptjax.report import leaderboard_page

SUBMISSION, JSON, PAGE = "submission.json", "leaderboard.json", "leaderboard.html"


@dataclasses.dataclass(frozen=True, eq=False)
class Leaderboard:
    """A suite, and who takes part in it. lost: name -> why there is nothing to run or to read of a submission."""

    suite: Suite
    workdir: Path
    submissions: list[Submission]
    lost: dict[str, str]

    @classmethod
    def open(
        cls, suite: Suite, workdir: Path, submissions: Sequence[Submission], *, claim: bool = True
    ) -> "Leaderboard":
        """These submissions, and those that the workdir has already. claim: whether the folders of what is left to run
        are made ready for it.

        Raises UserError: no submission; one of these that is neither a model nor predictions, or was of the other kind;
        a folder that holds something else; examples that cannot be read; finished runs of another suite. What is wrong
        with a submission that was there before is told by `report`.
        """
        if other := other_owner(workdir, Suite):
            raise UserError(f"{workdir} holds {other}, not a leaderboard: name another --workdir")
        if twice := {s.name for s in submissions if [t.name for t in submissions].count(s.name) > 1}:
            raise UserError(f"two submissions are named {', '.join(sorted(twice))}")
        there, lost = {}, {}
        for folder in sorted(path.parent for path in workdir.glob(f"*/{SUBMISSION}")):
            there[folder.name], problem = _read(folder)
            if problem:
                lost[folder.name] = problem
        for submission in submissions:
            _check_folder(workdir / submission.name)
            _check_same(submission, there.get(submission.name), workdir)
            kind = there[submission.name].kind if submission.name in there else None
            there[submission.name] = submission.found(kind)
            lost.pop(submission.name, None)
        if not there:
            raise UserError("nothing has been submitted: --submission=NAME=FOLDER")
        board = cls(suite, workdir, [there[name] for name in sorted(there)], lost)
        for name in {submission.name for submission in submissions}:
            if there[name].kind == "predictions":
                find_predictions(there[name].folder, [task.name for task in suite.tasks])
        board.references  # what would fail after all runs fails now
        for unit in board.units:
            with contextlib.suppress(Damaged):
                unit.check()
        with disk_errors(workdir):
            workdir.mkdir(parents=True, exist_ok=True)
            write_text(workdir / CONFIG, to_json(suite))
            for submission in board.submissions:
                if submission.name not in lost:
                    (workdir / submission.name).mkdir(exist_ok=True)
                    write_text(workdir / submission.name / SUBMISSION, to_json(submission))
        for unit in board.left() if claim else ():
            with contextlib.suppress(Damaged):
                unit.claim()
        return board

    @functools.cached_property
    def units(self) -> list[Unit]:
        """Every fine-tuning there is, of one task after the other."""
        return [
            self._unit(submission, task)
            for task in self.suite.tasks
            for submission in self.submissions
            if submission.kind == "model"
        ]

    def left(self) -> list[Unit]:
        """Those that can be run, and are not done."""
        return [unit for unit in self.units if unit.submission not in self.lost and not unit.is_done()]

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
        entries = [self._entry(submission) for submission in self.submissions]
        board = rank(self.suite, self.references, entries)
        with disk_errors(self.workdir):
            for entry in entries:
                self._hand_in(entry)
            write_json(self.workdir / JSON, board)
            write_text(self.workdir / PAGE, leaderboard_page(board))
        return board

    def _entry(self, submission: Submission) -> Entry:
        if submission.kind == "predictions":
            try:
                return Entry.of_predictions(submission.name, submission.folder, self.references)
            except UserError as error:
                failed = [_failure(self.lost.get(submission.name, str(error)))]
                return Entry(submission.name, {}, submission.described(), failed=failed)
        weights = submission.weights()
        results, failed, costs, units = {}, [], [], [u for u in self.units if u.submission == submission.name]
        if submission.name in self.lost and not all(unit.is_done() for unit in units):
            failed.append(_failure(self.lost[submission.name]))
        for unit in units:
            task, problems = unit.config.task.name, {}
            try:
                problems = unit.failed()
                result = unit.read(self.references[task])
                if result is not None:
                    costs.append(unit.cost())
                    results[task] = result
                if weights is not None and any(source != weights for source in unit.begun_from()):
                    other = f"{submission.path} has other weights now than its runs began from, which are ranked"
                    problems = problems | {None: f"{other}: submit the new ones under another name"}
            except UserError as error:
                problems = problems | {None: str(error)}
            except (OSError, LookupError, TypeError, ValueError, AttributeError) as error:  # whatever damage can do
                damage = f"{unit.folder} is damaged ({type(error).__name__}: {error}): delete it, and it is run again"
                problems = problems | {None: damage}
            failed += [_failure(error, task, cell) for cell, error in problems.items()]
        return Entry(submission.name, results, submission.described(), _total(costs), submission.pretraining(), failed)

    def _hand_in(self, entry: Entry) -> None:
        """Writes NAME/predictions, of models."""

        def fill(folder: Path) -> None:
            for task, result in entry.results.items():
                for seed, answers in result.predictions.items():
                    write_predictions(folder / task / f"{seed}.jsonl", answers)

        folder = self.workdir / entry.name / PREDICTIONS
        if folder.exists() or any(result.predictions for result in entry.results.values()):
            write_folder(folder, fill)


def _failure(error: str, task: str | None = None, cell: str | None = None) -> dict[str, str | None]:
    return {"task": task, "cell": cell, "error": error}


def _total(costs: Sequence[dict[str, float]]) -> dict[str, float | None] | None:
    """Of the fine-tunings of a submission: sizes of the largest model, the rest in all."""
    if not costs:
        return None
    total = {
        key: max((c[key] for c in costs if key in c), default=None) for key in ("parameters", "learning_parameters")
    }
    return total | {key: sum(cost[key] for cost in costs) for key in ("flops", "tokens", "seconds")}


def _check_same(submission: Submission, before: Submission | None, workdir: Path) -> None:
    """Raises UserError where the name is that of something else on this board: results of the two would mix."""
    if before is not None and (before.path, before.fresh) != (submission.path, submission.fresh):
        shown = [f"{one.path}{':fresh' * one.fresh}" for one in (before, submission)]
        raise UserError(
            f"submission {submission.name} is {shown[0]} on this board, not {shown[1]}: choose another name, or delete "
            f"{workdir / submission.name} to put it in its place"
        )


def _check_folder(folder: Path) -> None:
    """Raises UserError where something lives there that is no submission's."""
    if (folder / CONFIG).is_file():
        raise UserError(f"{folder} is the folder of another run: name the submission otherwise, or another --workdir")
    if folder.exists() and not (folder / SUBMISSION).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"{folder} is not empty, and has no {SUBMISSION}: name the submission otherwise, or another --workdir"
        )


def _read(folder: Path) -> tuple[Submission, str | None]:
    """What has been submitted under the folder's name, and why there is nothing to run or to read of it.

    Raises UserError where the folder has another submission's name.
    """
    has_runs = any(folder.glob(f"*/{CONFIG}"))
    kind = "model" if has_runs else "predictions"
    try:
        there = from_json((folder / SUBMISSION).read_text(encoding="utf-8"), Submission)
    except (UserError, OSError, ValueError) as error:
        problem = f"{folder / SUBMISSION} is damaged ({error}): submit it again, or delete {folder}"
        return Submission(name=folder.name, path="", kind="predictions"), problem
    if there.name != folder.name:
        raise UserError(
            f"{folder} holds the submission {there.name}, not {folder.name}: give the folder its name, or delete it"
        )
    try:
        return there.found(there.kind or ("model" if has_runs else None)), None
    except UserError as error:
        return chz.replace(there, kind=there.kind or kind), str(error)
