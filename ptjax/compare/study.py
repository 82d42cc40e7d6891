"""A comparison as a folder: what is left to run, in the order in which it can be, and the report.

WORKDIR/config.json                     the comparison
WORKDIR/costs.json                      what a step of each arm costs, as measured
WORKDIR/ARM/rate1-seed0/                workdir of a pre-training, with log.txt
WORKDIR/ARM/rate1-seed0/tasks/TASK/     workdir of a fine-tuning, with log.txt
WORKDIR/comparison.json, .html, .md     the report
"""

import dataclasses
import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ptjax.checkpoint import CONFIG, disk_errors, has_checkpoint
from ptjax.compare.budget import Budget, measure, not_measured, read_costs
from ptjax.compare.comparison import Arm, Comparison
from ptjax.compare.pairing import Ran, prove
from ptjax.compare.runs import Run, Runs
from ptjax.config import UserError, to_json
from ptjax.data.prepare import Corpus
from ptjax.files import write_text
from ptjax.finetune import FineTuning
from ptjax.jobs import Commands, Job
from ptjax.leaderboard.references import References
from ptjax.leaderboard.unit import Unit


@dataclasses.dataclass(frozen=True, eq=False)
class Measurement:
    """Of steps of all arms."""

    study: "Study"
    name: str = "every arm's step"
    kind: str = "measuring"
    size: int = 1

    @property
    def done(self) -> int:
        return int(not self.study.to_measure())

    def claim(self) -> None:
        """Its folder is the comparison's."""

    def job(self, commands: Commands) -> Job:
        workdir = self.study.workdir
        return Job(self.name, (*commands.measure, f"--workdir={workdir}"), workdir / "measure.log")

    def ended(self, problem: str | None) -> None:
        """Nothing can follow without it. Raises UserError."""
        if problem is not None:
            raise UserError(f"measuring the arms' steps failed: {problem}")


@dataclasses.dataclass(frozen=True, eq=False)
class Study:
    """A comparison in its workdir."""

    comparison: Comparison
    workdir: Path

    @classmethod
    def open(cls, comparison: Comparison, workdir: Path) -> "Study":
        """Raises UserError: a folder that holds something else; examples that cannot be read."""
        if other := _other_owner(workdir):
            raise UserError(f"{workdir} holds {other}, not a comparison: name another --workdir")
        study = cls(comparison, workdir)
        study.references  # what would fail after all runs fails now
        with disk_errors(workdir):
            workdir.mkdir(parents=True, exist_ok=True)
            write_text(workdir / CONFIG, to_json(comparison))
        return study

    def corpora(self) -> list[Corpus]:
        """Of all arms, each once."""
        found = {}
        for experiment in (self.comparison.base, *map(self.comparison.changed, self.comparison.arms)):
            found.setdefault(experiment.data.corpus.path, experiment.data.corpus)
        return list(found.values())

    def measure(self) -> None:
        """Here, in this process."""
        measure(self.comparison, self.workdir)

    def to_measure(self) -> bool:
        return bool(not_measured(self.comparison, read_costs(self.workdir)))

    @functools.cached_property
    def references(self) -> dict[str, References]:
        """By name of the task."""
        suite = self.comparison.suite
        return {task.name: References.read(task) for task in suite.tasks} if suite else {}

    @property
    def budget(self) -> Budget:
        """Raises UserError: a corpus that is not prepared; seconds that were not measured."""
        return Budget(self.comparison, read_costs(self.workdir))

    @functools.cached_property
    def runs(self) -> Runs:
        """Once the budget is known."""
        return Runs(self.comparison, self.budget, self.workdir)

    def check(self) -> None:
        """Raises UserError: a run or a fine-tuning of another comparison; arms that should be paired and are not."""
        if self.to_measure():  # nothing is decided yet
            return
        for run in self.planned():
            run.check()
            for unit in self.units(run):
                unit.check()
        self.pairing()

    # What is to be run.

    def next(self, failed: Sequence[str] = ()) -> "list[Measurement | Run | Unit]":
        """All that can be run now and is not done, ready to start; failed: names of what is not tried again. Runs of
        one seed come before those of the next, so that what is finished early can be compared."""
        if self.to_measure():
            return [Measurement(self)]
        found: dict[str, Run | Unit] = {}
        for run in self.planned():
            for piece in self._ready(run):
                found.setdefault(piece.name, piece)
        pieces = [piece for name, piece in found.items() if name not in failed]
        for piece in pieces:
            piece.claim()
        return pieces

    def _ready(self, run: Run) -> "Iterator[Run | Unit]":
        """Of a run and its tasks, what is left and waits for nothing."""
        if run.is_done():
            yield from (unit for unit in self.units(run) if not unit.is_done())
        elif run.parent is None or run.parent.has_step(run.experiment_start()) or has_checkpoint(run.folder):
            yield run
        else:
            yield from self._ready(run.parent)

    def planned(self) -> list[Run]:
        """Runs whose rate is known, those of a grid first, seed by seed."""
        found = []
        for arm in self.comparison.in_order():
            seeds = self.comparison.seeds_of(arm)
            found += [(0, run) for run in self.grid(arm)]
            selected = self.selected(arm)
            if selected is not None:
                runs = [(place, self._run(arm, selected, seed)) for place, seed in enumerate(seeds)]
                found += [(place, run) for place, run in runs if run and run.name not in [r.name for _, r in found]]
        return [run for _, run in sorted(found, key=lambda pair: pair[0])]

    def grid(self, arm: Arm) -> list[Run]:
        """Of every rate, with the arm's first seed; none where its parent's rate is not known yet."""
        runs = [self._run(arm, rate, self.comparison.seeds_of(arm)[0]) for rate in self.comparison.rates]
        return [run for run in runs if run is not None]

    def _run(self, arm: Arm, rate: float, seed: int) -> Run | None:
        if arm.after is None:
            return self.runs.of(arm, rate, seed)
        parent = self.comparison.arm(arm.after)
        selected = self.selected(parent)
        if selected is None:
            return None
        before = self._run(parent, selected, seed)
        start = self.runs.budget.arms[arm.name].start
        if before.is_done() and not before.has_step(start):
            before = self.runs.prefix(before, start)  # the arm was added later: the beginning is run again, no more
        return self.runs.of(arm, rate, seed, before)

    def selected(self, arm: Arm) -> float | None:
        """The rate that is used: the only one, or the best of those of the grid that have not failed; None while some
        are to come."""
        rates = self.comparison.rates
        if len(rates) == 1:
            return rates[0]
        runs = self.grid(arm)
        scores = {run.rate: self.selection(run) for run in runs if run.error is None}
        if not scores or None in scores.values():
            return None
        best = max if self.comparison.select == "score" else min
        return best(sorted(scores), key=lambda rate: scores[rate])

    def selection(self, run: Run) -> float | None:
        """What a run of the grid is chosen by; None where it is not known yet."""
        if not run.is_done():
            return None
        if self.comparison.select == "loss":
            return run.validation().get("loss")
        return self.validation_score(run)

    def validation_score(self, run: Run) -> float | None:
        """Mean over the tasks that are trained of the validation headline; None where one is not done."""
        scores = []
        for unit in self.units(run):
            if unit.config.task.zero_shot:
                continue
            if not unit.is_done():
                return None
            scores.append(unit.validation())
        return sum(scores) / len(scores) if scores else None

    def units(self, run: Run) -> list[Unit]:
        """Its fine-tunings: where rates are chosen by loss, of the chosen one alone."""
        suite = self.comparison.suite
        if suite is None or run.experiment.until is not None:
            return []
        if self.comparison.select == "loss" and self.selected(run.arm) != run.rate:
            return []
        return [
            Unit(
                run.name,
                FineTuning(task=task, init_from=str(run.folder), recipe=suite.recipe),
                run.folder / "tasks" / task.name,
            )
            for task in suite.tasks
        ]

    # What has been run.

    def pairing(self) -> list[dict[str, Any]]:
        """What is paired, proven of all runs that have begun. Raises UserError where arms differ that should not."""
        begun = [run for run in self.planned() if has_checkpoint(run.folder)]
        ran = [Ran(run.arm.name, run.rate, run.seed, run.experiment, run.folder) for run in begun]
        return prove(ran, self.comparison.allow)


def _other_owner(workdir: Path) -> str | None:
    """What else lives in the folder."""
    try:
        owner = json.loads((workdir / CONFIG).read_text())[""].rpartition(":")[2]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return "something else"
    return None if owner == Comparison.__name__ else f"another kind of run ({owner})"
