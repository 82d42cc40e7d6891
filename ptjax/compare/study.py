"""A comparison as a folder: what is left to run, in the order in which it can be, and the report.

WORKDIR/config.json                     the comparison
WORKDIR/costs.json                      what a step of each arm costs, as measured
WORKDIR/ARM/rate1-seed0/                workdir of a pre-training, with log.txt
WORKDIR/ARM/rate1-seed0/tasks/TASK/     workdir of a fine-tuning, with log.txt
WORKDIR/comparison.json, .html, .md     the report
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ptjax.checkpoint import CONFIG, disk_errors, has_checkpoint
from ptjax.compare.budget import Budget, known, measure, not_measured, read_costs
from ptjax.compare.comparison import Arm, Comparison
from ptjax.compare.pairing import Ran, prove
from ptjax.compare.runs import Run, Runs
from ptjax.config import UserError, to_json
from ptjax.data.prepare import Corpus
from ptjax.files import write_text
from ptjax.finetune import FineTuning
from ptjax.jobs import Commands, Job
from ptjax.leaderboard.owner import other_owner
from ptjax.leaderboard.references import References
from ptjax.leaderboard.unit import Unit
from ptjax.provenance import Provenance, code_hashes


@dataclasses.dataclass(eq=False)
class Measurement:
    """Of steps of all arms."""

    study: "Study"
    name: str = "every arm's step"
    kind: str = "measuring"
    size: int = 1
    done: int = 0

    def claim(self) -> None:
        """Its folder is the comparison's."""

    def job(self, commands: Commands) -> Job:
        workdir = self.study.workdir
        return Job(self.name, (*commands.measure, f"--workdir={workdir}"), workdir / "measure.log")

    def ended(self, problem: str | None) -> None:
        """Nothing can follow without it. Raises UserError."""
        if problem is not None:
            raise UserError(f"measuring the arms' steps failed: {problem}")
        self.done = 1


@dataclasses.dataclass(frozen=True, eq=False)
class Study:
    """A comparison in its workdir."""

    comparison: Comparison
    workdir: Path

    @classmethod
    def open(cls, comparison: Comparison, workdir: Path) -> "Study":
        """Raises UserError: a folder that holds something else; examples that cannot be read."""
        if other := other_owner(workdir, Comparison):
            raise UserError(f"{workdir} holds {other}, not a comparison: name another --workdir")
        study = cls(comparison, workdir)
        study.references  # what would fail after all runs fails now
        return study

    def claim(self) -> None:
        """Makes the workdir the comparison's, as it is now."""
        with disk_errors(self.workdir):
            self.workdir.mkdir(parents=True, exist_ok=True)
            write_text(self.workdir / CONFIG, to_json(self.comparison))

    def corpora(self) -> list[Corpus]:
        """Of all arms, each once."""
        experiments = (self.comparison.base, *map(self.comparison.changed, self.comparison.arms))
        return list({to_json(e.data.corpus): e.data.corpus for e in experiments}.values())

    def measure(self) -> None:
        """Here, in this process. Raises UserError: a corpus that is not prepared; an arm that cannot be compiled."""
        with disk_errors(self.workdir):
            self.workdir.mkdir(parents=True, exist_ok=True)
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
        return Budget(self.comparison, known(self.comparison, read_costs(self.workdir)))

    @functools.cached_property
    def runs(self) -> Runs:
        """Once the budget is known."""
        return Runs(self.comparison, self.budget, self.workdir)

    def check(self) -> None:
        """Raises UserError: a run or a fine-tuning of another comparison; arms that should be paired and are not; runs
        to come that could not be, as the code has changed."""
        if self.comparison.match == "seconds" and self.to_measure():  # nothing is decided yet
            return
        planned = self.planned()
        for run in planned:
            run.check()
            for unit in self.units(run):
                unit.check()
        self.pairing()
        self._check_code(planned)

    def _check_code(self, planned: Sequence[Run]) -> None:
        """What is found out after hours otherwise."""
        begun = [run for run in planned if has_checkpoint(run.folder)]
        left = [run for run in planned if not run.is_done()]
        if "code" in self.comparison.allow or not begun or not left:
            return
        there = Provenance.read(begun[0].folder).parts[-1]["code"]["ptjax"]
        if code_hashes(left[0].experiment)["ptjax"] != there:
            raise UserError(
                f"The code of ptjax is not the one that {begun[0].folder} was trained by: what is left to run would "
                "not be paired with it. Use that code again, or another --workdir to run all of it with this one, or "
                "allow=code"
            )

    # What is to be run.

    def next(self, failed: Sequence[str] = ()) -> "list[Measurement | Run | Unit]":
        """All that can be run now and is not done, ready to start, seed by seed; failed: names of what is not tried
        again."""
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
        elif run.has_diverged():
            return
        elif run.parent is None or run.parent.has_step(run.experiment.first_step) or has_checkpoint(run.folder):
            yield run
        else:
            yield from self._ready(run.parent)

    def planned(self) -> list[Run]:
        """Runs whose rate is known, those of a grid first, seed by seed."""
        found: dict[str, tuple[int, Run]] = {}
        for arm in self.comparison.in_order():
            runs = [(0, run) for run in self.grid(arm)]
            selected = self.selected(arm)
            if selected is not None:
                seeds = enumerate(self.comparison.seeds_of(arm))
                runs += [(place, self._run(arm, selected, seed)) for place, seed in seeds]
            for place, run in runs:
                found.setdefault(run.name, (place, run))
        return [run for _, run in sorted(found.values(), key=lambda pair: pair[0])]

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
        """The rate that is used: the only one, or the best of the grid; None while some of it is to come, or where all
        of it has diverged."""
        rates = self.comparison.rates
        if len(rates) == 1:
            parent = arm.after and self.selected(self.comparison.arm(arm.after))
            return rates[0] if arm.after is None or parent is not None else None
        scores = {run.rate: self._merit(run) for run in self.grid(arm)}
        if not scores or None in scores.values() or max(scores.values()) == -math.inf:
            return None
        return max(sorted(scores), key=lambda rate: scores[rate])

    def _merit(self, run: Run) -> float | None:
        """What a run of the grid is chosen by, higher is better; None where it is not known yet."""
        if run.has_diverged():
            return -math.inf
        if not run.is_done():
            return None
        if self.comparison.select == "score":
            return self.validation_score(run)
        loss = run.validation()["loss"]
        return -loss if math.isfinite(loss) else -math.inf

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
        return prove([_ran(run) for run in self.planned()], self.comparison.allow)


def _ran(run: Run) -> Ran:
    return Ran(run.arm.name, run.rate, run.seed, run.experiment, run.folder, run.parent and _ran(run.parent))
