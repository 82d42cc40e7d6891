"""A pre-training of an arm: a workdir of its own, in the comparison's."""

import contextlib
import dataclasses
import functools
import math
from pathlib import Path

import chz

from ptjax.checkpoint import CONFIG, MANIFEST, MAY_CHANGE, Saved, has_checkpoint, read_config
from ptjax.compare.budget import Budget
from ptjax.compare.comparison import Arm, Comparison
from ptjax.config import UserError, differences, from_json, to_json
from ptjax.files import write_text
from ptjax.jobs import Commands, Job, keep_problem, locked
from ptjax.logging import FILE as METRICS
from ptjax.logging import read_metrics
from ptjax.provenance import Provenance
from ptjax.train import Experiment

ERROR, LOG = "error.txt", "log.txt"


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """rate: multiple of the arm's peak_lr. parent: the run that this one goes on from."""

    arm: Arm
    rate: float
    seed: int
    experiment: Experiment
    folder: Path
    parent: "Run | None" = None

    @property
    def name(self) -> str:
        run = self.folder.name if self.experiment.until is None else f"{self.folder.parent.name}/{self.folder.name}"
        return f"{self.arm.name}/{run}"

    @property
    def kind(self) -> str:
        return "pre-training"

    @property
    def size(self) -> int:
        """Of a progress bar."""
        return 1

    @property
    def done(self) -> int:
        return int(self.has_step(self.experiment.stop))

    @functools.cached_property
    def _config(self) -> str:
        return to_json(self.experiment)

    def is_done(self) -> bool:
        return self.has_step(self.experiment.stop) and self._is_claimed()

    def has_step(self, step: int) -> bool:
        return (self.folder / "checkpoints" / str(step) / MANIFEST).is_file()

    def weights(self) -> dict[str, object]:
        """Of the end of the run, as fine-tunings record those they begin from."""
        return {"step": self.experiment.stop, "sha256": self.saved(self.experiment.stop).sha256}

    def saved(self, step: int) -> Saved:
        return Saved(self.folder / "checkpoints", step)

    def _is_claimed(self) -> bool:
        return (self.folder / CONFIG).is_file() and not self._unlike()

    def check(self) -> None:
        """Raises UserError where a run of another experiment is there, or one that goes on from another state than its
        parent has now."""
        if not has_checkpoint(self.folder):
            return
        if rows := self._unlike():
            listed = "\n".join(f"  {key}: {there} there, {here} here" for key, there, here in rows)
            raise UserError(
                f"{self.folder} holds a run of another experiment:\n{listed}\nUse another --workdir for the changed "
                f"comparison, or delete {self.folder} to run it again"
            )
        if self.parent is not None and self.parent.has_step(self.experiment.first_step):
            there = self.parent.saved(self.experiment.first_step).sha256
            if Provenance.read(self.folder).branched["sha256"] != there:
                raise UserError(
                    f"{self.folder} goes on from another state than step {self.experiment.first_step} of "
                    f"{self.parent.folder} is now: delete {self.folder}, and it is run again"
                )

    def _unlike(self) -> list[tuple[str, str, str]]:
        """Where what it was trained with is not what is asked for."""
        config = self.folder / CONFIG
        if config.is_file() and config.read_text() == self._config:
            return []
        try:
            there = from_json(read_config(self.folder), Experiment)
        except UserError as error:
            raise UserError(
                f"{self.folder / CONFIG} is damaged: {error}: delete {self.folder}, and it is run again"
            ) from None
        rows = differences(_comparable(there), _comparable(self.experiment))
        return [row for row in rows if not any(f"{row[0]}.".startswith(f"{free}.") for free in FREE)]

    def claim(self) -> None:
        """Makes its folder that of its experiment. Raises UserError as `check` does, and where a process is at it."""
        self.check()
        config = self.folder / CONFIG
        if config.is_file() and config.read_text() == self._config:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / LOG
        with locked(log) if log.is_file() else contextlib.nullcontext():
            write_text(config, self._config)

    def job(self, commands: Commands) -> Job:
        return Job(self.name, (*commands.pretrain, f"--workdir={self.folder}"), self.folder / LOG)

    def ended(self, problem: str | None) -> None:
        keep_problem(self.folder / ERROR, problem)

    @property
    def error(self) -> str | None:
        """What it failed with; None where it is done, or was never begun."""
        path = self.folder / ERROR
        return path.read_text(encoding="utf-8").strip() if path.is_file() and not self.is_done() else None

    def validation(self) -> dict[str, float]:
        """Scores at its end, as validation gave them."""
        found = [r for r in read_metrics(self.folder, "validation") if r["step"] == self.experiment.stop]
        if not found:
            raise UserError(f"{self.folder} has no validation of its last step: delete it, and it is run again")
        # JSON has no NaN, so the log has null for it.
        return {k: math.nan if v is None else v for k, v in found[-1].items() if k not in ("kind", "step", "time")}

    def has_diverged(self) -> bool:
        """Whether it ended by itself, its loss or gradient not finite: to run it again would end alike."""
        return (self.folder / METRICS).is_file() and any(
            "is not finite" in event["text"] for event in read_metrics(self.folder, "event")
        )

    def curve(self, metric: str) -> list[tuple[int, float]]:
        """[step, value] of every validation."""
        return [(r["step"], r[metric]) for r in read_metrics(self.folder, "validation") if r.get(metric) is not None]

    def seconds(self) -> float:
        """Of its own training steps, compilation left out."""
        total, before = 0.0, self.experiment.first_step
        for record in read_metrics(self.folder):
            total += (record["step"] - before) * (record.get("seconds/step") or 0.0)
            before = record["step"]
        return total


# A run may be paused, watched and saved otherwise, and its parent may have moved with it. How long it is decides its
# rates, and what it is validated on, what is compared.
FREE = tuple(key for key in MAY_CHANGE if key not in ("steps", "evaluation")) + ("evaluation.every",)


def _comparable(experiment: Experiment) -> Experiment:
    """Without the folder of the parent."""
    if experiment.branch_from is None:
        return experiment
    return chz.replace(experiment, branch_from=f"@{experiment.first_step}")


class Runs:
    """The runs of a comparison, by arm, rate and seed."""

    def __init__(self, comparison: Comparison, budget: Budget, workdir: Path):
        self.comparison, self.budget, self.workdir = comparison, budget, workdir
        self._kept = {arm.name: self._branching_steps(arm) for arm in comparison.arms}
        self._changed = {arm.name: comparison.changed(arm) for arm in comparison.arms}
        self._made: dict[tuple, Run] = {}

    def of(self, arm: Arm, rate: float, seed: int, parent: Run | None = None) -> Run:
        """parent: for an arm that goes on from another, that one's run of the same seed."""
        key = (arm.name, rate, seed, parent and parent.folder)
        if key not in self._made:
            self._made[key] = self._make(arm, rate, seed, parent)
        return self._made[key]

    def _make(self, arm: Arm, rate: float, seed: int, parent: Run | None) -> Run:
        e, given = self._changed[arm.name], self.budget.arms[arm.name]
        changes = {"steps": given.steps, "seed": seed}
        if rate != 1:
            changes["optimizer"] = chz.replace(e.optimizer, peak_lr=rate * e.optimizer.peak_lr)
        if e.evaluation.every is not None:  # as often in the run, however long it is
            own = max(round(e.evaluation.every * given.steps / e.steps), 1)
            changes["evaluation"] = chz.replace(e.evaluation, every=own)
        if kept := self._kept[arm.name]:
            kept = tuple(sorted({*kept, *e.checkpoint.keep_steps}))
            changes["checkpoint"] = chz.replace(e.checkpoint, keep_steps=kept)
        folder = self.workdir / arm.name / f"rate{rate:.12g}-seed{seed}"
        if arm.after is not None:
            changes["branch_from"] = f"{parent.folder}@{given.start}"
        return Run(arm, rate, seed, chz.replace(e, **changes), folder, parent)

    def prefix(self, run: Run, step: int) -> Run:
        """The same run again, only until `step`: for an arm that leaves it where it kept no checkpoint."""
        experiment = chz.replace(run.experiment, until=step)
        return dataclasses.replace(run, experiment=experiment, folder=run.folder / f"until-{step}")

    def _branching_steps(self, arm: Arm) -> set[int]:
        """Where others leave it."""
        return {self.budget.arms[a.name].start for a in self.comparison.arms if a.after == arm.name}
