"""What a comparison has come to, as far as it has: the contents of comparison.json (docs/compare.md says what they
mean)."""

import contextlib
import dataclasses
import functools
import itertools
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from ptjax.compare import scaling
from ptjax.compare.budget import Cost
from ptjax.compare.comparison import Arm
from ptjax.compare.differences import Difference, Differences, TaskRuns, holm, mean_of_seeds, seed_difference
from ptjax.compare.runs import Run
from ptjax.compare.study import Study
from ptjax.config import UserError, differences, to_json
from ptjax.files import finite
from ptjax.leaderboard.board import made
from ptjax.leaderboard.entry import Result
from ptjax.leaderboard.submission import as_text
from ptjax.leaderboard.unit import Unit
from ptjax.objectives.base import Objective

BITS = "bits_per_byte"


@dataclasses.dataclass(frozen=True)
class Scored:
    """A run of the selected rate that is done, and its tasks that are."""

    run: Run
    validation: dict[str, float]
    tasks: dict[str, Result]


class Results:
    """Reads what a study's workdir holds. Raises UserError where files are not what runs have written, and where arms
    differ that should not."""

    def __init__(self, study: Study):
        self.study, self.comparison, self.budget = study, study.comparison, study.budget
        self.failed: list[dict[str, Any]] = []
        self._planned = study.planned()
        self.scored: dict[str, list[Scored]] = {arm.name: self._scored(arm) for arm in self.comparison.arms}
        self.differences = self._differences()

    def contents(self) -> dict[str, Any]:
        c, left, items = self.comparison, self._left(), self.study.pairing()
        suite = c.suite
        return finite(
            {
                "name": c.name,
                "question": c.question,
                "match": c.match,
                "amount": self.budget.amount,
                "seeds": list(c.seeds),
                "rates": list(c.rates),
                "select": c.select,
                "confidence": self._confidence,
                "resamples": suite.resamples if suite else None,
                "made": made(),
                "complete": not any(left.values()),
                "left": left,
                "base": as_text(to_json(c.base)),
                "arms": [self._arm(arm) for arm in c.arms],
                "curves": self._curves(),
                "suite": suite and {"name": suite.name, "tasks": [r.about() for r in self.study.references.values()]},
                "differences": self._pairs(),
                "pretraining_differences": self._validation_pairs(),
                "pairing": {"proven": _proven(items), "items": items},
                "scaling": self._scaling(),
                "failed": self.failed,
            }
        )

    @property
    def _confidence(self) -> float:
        return self.comparison.suite.confidence if self.comparison.suite else 0.95

    def _left(self) -> dict[str, int]:
        """How much is still to come: where a rate is not known, its runs, of which one is in the grid."""
        runs = sum(not run.is_done() for run in self._planned)
        tasks = len(self.comparison.suite.tasks) if self.comparison.suite else 0
        cells = sum(not unit.is_done() for run in self._planned for unit in self.study.units(run))
        for arm in self.comparison.arms:
            if self.study.selected(arm) is None:
                seeds, grid = len(self.comparison.seeds_of(arm)), self.study.grid(arm)
                runs += seeds - 1 + (0 if grid else len(self.comparison.rates))
                cells += tasks * (seeds - any(self.study.units(run) for run in grid))
        return {"runs": runs, "cells": cells}

    # Reading.

    def _scored(self, arm: Arm) -> list[Scored]:
        found = []
        for run in self._planned:
            if run.arm.name != arm.name:
                continue
            self._note_failure(run)
            selected = run.rate == self.study.selected(arm)
            if run.is_done():
                tasks = {unit.config.task.name: self._result(run, unit) for unit in self.study.units(run)}
                if selected:
                    whole = {name: result for name, result in tasks.items() if result is not None and result.whole}
                    found.append(Scored(run, run.validation(), whole))
        order = {seed: place for place, seed in enumerate(self.comparison.seeds_of(arm))}
        return sorted(found, key=lambda scored: order[scored.run.seed])

    def _note_failure(self, run: Run) -> None:
        """Of the run, and of the beginning that it may have been waiting for."""
        if run.error:
            failure = {"arm": run.arm.name, "run": run.name.partition("/")[2], "task": None, "error": run.error}
            if failure not in self.failed:
                self.failed.append(failure)
        if run.parent is not None:
            self._note_failure(run.parent)

    def _result(self, run: Run, unit: Unit) -> Result | None:
        task = unit.config.task.name
        for cell, error in unit.failed().items():
            where = run.folder.name if cell is None else f"{run.folder.name} {cell}"
            self.failed.append({"arm": run.arm.name, "run": where, "task": task, "error": error})
        for weights in unit.begun_from():
            if weights != run.weights():
                raise UserError(
                    f"{unit.folder} holds runs from other weights than {run.folder} has now: delete {unit.folder}, and "
                    "they are run again"
                )
        return unit.read(self.study.references[task])

    def _differences(self) -> Differences | None:
        tasks = []
        for name, references in self.study.references.items():
            predictions, seeds, right = {}, {}, None
            for arm, found in self.scored.items():
                for scored in found:
                    if name in scored.tasks:
                        compared = [
                            references.task.compared(run.answers, references.examples)
                            for run in scored.tasks[name].runs
                        ]
                        right = compared[0][1]
                        predictions.setdefault(arm, []).append([predicted for predicted, _ in compared])
                        seeds.setdefault(arm, []).append(scored.run.seed)
            if predictions:
                tasks.append(TaskRuns.of(name, references.task.headline, predictions, right, seeds))
        return Differences(tasks, self.comparison.suite.resamples) if tasks else None

    # Writing.

    def _arm(self, arm: Arm) -> dict[str, Any]:
        experiment, given = self.comparison.changed(arm), self.budget.arms[arm.name]
        found = self.scored[arm.name]
        after = None
        if arm.after is not None:
            after = {"arm": arm.after, "step": given.start, "share": arm.at}
        return {
            "name": arm.name,
            "about": arm.about,
            "changes": list(arm.changes),
            "seeds": list(self.comparison.seeds_of(arm)),
            "share": arm.budget,
            "after": after,
            "curve": arm.curve,
            "objective": words(experiment.objective),
            "difference": [[key, here, there] for key, there, here in differences(self.comparison.base, experiment)],
            "config": as_text(to_json(experiment)),
            "budget": {
                "steps": given.steps,
                **_cost(given.total),
                "step": _cost(given.step) | {"flops_compiled": given.step.flops_compiled},
                "terms": dict(given.step.predicted),
                "parameters": given.parameters,
            },
            "rate": self._rate(arm),
            "runs": [self._run(arm, scored) for scored in found],
            "pretraining": self._pretraining(arm, found),
            "score": self._scores[arm.name],
            "tasks": {task: self._task(arm.name, task) for task in self._tasks_of(arm.name)},
            "cost": self._total(arm),
        }

    def _rate(self, arm: Arm) -> dict[str, Any]:
        peak, selected = self.comparison.changed(arm).optimizer.peak_lr, self.study.selected(arm)
        grid = []
        for run in self.study.grid(arm):
            loss = run.validation().get("loss") if run.is_done() else None
            score = self.study.validation_score(run) if run.is_done() and self.study.units(run) else None
            peak_lr = run.experiment.optimizer.peak_lr
            grid.append({"rate": run.rate, "peak_lr": peak_lr, "seed": run.seed, "loss": loss, "score": score})
        rates = sorted(self.comparison.rates)
        edge = len(rates) > 1 and selected in (rates[0], rates[-1])
        return {
            "selected": selected,
            "peak_lr": None if selected is None else selected * peak,
            "edge": edge,
            "grid": grid,
        }

    def _run(self, arm: Arm, scored: Scored) -> dict[str, Any]:
        run = scored.run
        return {
            "seed": run.seed,
            "rate": run.rate,
            "folder": str(run.folder.relative_to(self.study.workdir)),
            "validation": scored.validation,
            "seconds": run.seconds(),
            "curve": [[step, self.budget.spent(arm, step), value] for step, value in run.curve(self._metric(arm))],
        }

    def _metric(self, arm: Arm) -> str:
        """Of validation: bits a byte where its objective has them."""
        found = self.scored[arm.name]
        return BITS if found and all(BITS in scored.validation for scored in found) else "loss"

    def _pretraining(self, arm: Arm, found: Sequence[Scored]) -> dict[str, Any] | None:
        metric = self._metric(arm)
        values = [scored.validation[metric] for scored in found]
        if not values:
            return None
        return {"metric": metric, **mean_of_seeds(values, self._confidence).figures, "seeds": values}

    def _tasks_of(self, arm: str) -> list[str]:
        return [n for n, task in self.differences.tasks.items() if arm in task.seeds] if self.differences else []

    @functools.cached_property
    def _scores(self) -> dict[str, dict[str, Any] | None]:
        """By arm; None where a task is lacking."""
        return {arm.name: self._score(arm.name) for arm in self.comparison.arms}

    def _score(self, arm: str) -> dict[str, Any] | None:
        if self.differences is None or len(self._tasks_of(arm)) < len(self.study.references):
            return None
        with contextlib.suppress(KeyError):  # no seed that has all tasks
            return self.differences.score(arm, self._confidence).figures | {"seeds": self.differences.seeds(arm)}
        return None

    def _task(self, arm: str, task: str) -> dict[str, Any]:
        runs = [run for scored in self.scored[arm] if task in scored.tasks for run in scored.tasks[task].runs]
        metrics = {name: sum(run.scores[name] for run in runs) / len(runs) for name in runs[0].scores}
        interval = self.differences.task(task, arm, self._confidence)
        return interval.figures | {"seeds": self.differences.task_seeds(task, arm), "metrics": metrics}

    def _total(self, arm: Arm) -> dict[str, Any]:
        """Of all its runs, those of rates that were not selected too; what it shares with the arm it goes on from is
        that one's."""
        runs = [run for run in self._planned if run.arm.name == arm.name and run.is_done()]
        own = self.budget.arms[arm.name]
        units = [unit.cost() for run in runs for unit in self.study.units(run)]
        return {
            "runs": len(runs),
            "pretraining_seconds": sum(run.seconds() for run in runs),
            "pretraining_flops": len(runs) * own.step.flops * (own.steps - own.start),
            "tuning_seconds": sum(cost["seconds"] for cost in units),
            "tuning_flops": sum(cost["flops"] for cost in units),
        }

    def _pairs(self) -> list[dict[str, Any]]:
        """Every pair of arms that have a score."""
        names = [arm.name for arm in self.comparison.arms if self._scores[arm.name] is not None]
        pairs = []
        for a, b in itertools.combinations(names, 2):
            found = self.differences.difference(a, b, self._confidence)
            tasks = {}
            for task in self.differences.tasks:
                one = self.differences.task_difference(task, a, b, self._confidence)
                tasks[task] = one.figures | {"p": one.p}
            pairs.append({"a": a, "b": b, **_about(found), "tasks": tasks})
        return _adjusted(pairs)

    def _validation_pairs(self) -> list[dict[str, Any]]:
        """Every pair of arms that were asked the same question: of what validation measures."""
        every = []
        for question, (metric, arms) in self._questions.items():
            pairs = []
            values = {arm.name: {s.run.seed: s.validation[metric] for s in self.scored[arm.name]} for arm in arms}
            for a, b in itertools.combinations(values, 2):
                found = seed_difference(values[a], values[b], self._confidence)
                pairs.append({"a": a, "b": b, "question": question, "metric": metric, **_about(found)})
            every += _adjusted(pairs)
        return every

    @functools.cached_property
    def _questions(self) -> dict[str, tuple[str, list[Arm]]]:
        """What validation asks -> (what it measures, who is asked): of the same rows of the same text."""
        groups: dict[tuple, list[Arm]] = defaultdict(list)
        for arm in self.comparison.arms:
            if self.scored[arm.name]:
                e = self.comparison.changed(arm)
                asked = words(e.objective.stages(self.budget.arms[arm.name].steps)[-1].objective)
                rows = e.evaluation.batches and e.evaluation.batches * e.data.batch_size
                groups[asked, self._metric(arm), e.data.corpus.path, e.data.length, rows].append(arm)
        asked = [question for question, *_ in groups]
        found = {}
        for (question, metric, corpus, length, rows), arms in groups.items():
            if asked.count(question) > 1:
                question = f"{question}, {metric} of {rows or 'all'} rows of {length} of {corpus}"
            found[question] = metric, arms
        return found

    def _curves(self) -> list[dict[str, Any]]:
        """A chart a question."""
        charts = []
        for question, (metric, arms) in self._questions.items():
            lines = []
            for arm in arms:
                for scored in self.scored[arm.name]:
                    points = [[self.budget.spent(arm, step), value] for step, value in scored.run.curve(metric)]
                    lines.append({"arm": arm.name, "seed": scored.run.seed, "points": points})
            charts.append({"question": question, "metric": metric, "x": self.comparison.match, "lines": lines})
        return charts

    def _scaling(self) -> list[dict[str, Any]]:
        """Of arms with one `curve`: of their scores, and of what validation measures where they share a question."""
        curves: dict[str, list[Arm]] = defaultdict(list)
        for arm in self.comparison.arms:
            if arm.curve is not None:
                curves[arm.curve].append(arm)
        found = []
        for curve, arms in curves.items():
            scores = [(arm, seed, value) for arm in arms for seed, value in self._score_by_seed(arm).items()]
            found.append(self._fit(curve, "score", "score", scores))
            for metric, asked in self._questions.values():
                measured = [(arm, s) for arm in arms if arm in asked for s in self.scored[arm.name]]
                values = [(arm, s.run.seed, s.validation[metric]) for arm, s in measured]
                found.append(self._fit(curve, metric, "loss", values))
        return [fit for fit in found if fit is not None]

    def _score_by_seed(self, arm: Arm) -> dict[int, float]:
        score, tasks = self._scores[arm.name], len(self.study.references)
        seeds = [scored.run.seed for scored in self.scored[arm.name] if len(scored.tasks) == tasks]
        return dict(zip(seeds, score["seeds"], strict=True)) if score else {}

    def _fit(self, curve: str, y: str, kind: str, values: Sequence[tuple[Arm, int, float]]) -> dict[str, Any] | None:
        points = [
            {"arm": arm.name, "seed": seed, "flops": self.budget.arms[arm.name].total.flops, "value": value}
            for arm, seed, value in values
        ]
        if not points:
            return None
        fit = scaling.fit([p["flops"] for p in points], [p["value"] for p in points], kind, self._confidence)
        shown = {key: getattr(fit, key, None) for key in ("form", "slope", "low", "high", "p", "r2", "sizes")}
        band = [list(row) for row in fit.band] if fit else []
        return {"curve": curve, "y": y, "points": points, **shown, "band": band}


def _about(found: Difference) -> dict[str, Any]:
    about = {"p": found.p, "tie": found.tie, "paired": found.paired, "seeds": list(found.seeds)}
    return found.figures | about


def _adjusted(pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """With p-values adjusted for how many there are."""
    return [pair | {"p_holm": p} for pair, p in zip(pairs, holm([pair["p"] for pair in pairs]))]


def _proven(items: Sequence[dict[str, Any]]) -> bool | None:
    """False where something that should agree does not and is allowed; None where nothing has been compared."""
    return all(item["status"] != "allowed" for item in items) if items else None


def words(objective: Objective) -> str:
    """An objective by its class and the fields that are not the default's."""
    changed = [f"{key}={here}" for key, _, here in _changes(objective)]
    return f"{type(objective).__name__}({', '.join(changed)})" if changed else type(objective).__name__


def _changes(objective: Objective) -> list[tuple[str, str, str]]:
    try:
        default = type(objective)()
    except TypeError:  # it has fields that must be given
        return [(key, "", value) for key, value in as_text(to_json(objective)).items()]
    return differences(default, objective)


def _cost(cost: Cost) -> dict[str, float | None]:
    return {name: getattr(cost, name) for name in ("tokens", "predicted_tokens", "flops", "seconds")}
