"""The ranking: scores with intervals, ties, and all that leaderboard.json says."""

import datetime
import platform
import statistics
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import ptjax
from ptjax.bootstrap import Bootstrap, Difference, TaskScores
from ptjax.leaderboard.entry import Entry, Result
from ptjax.files import finite
from ptjax.leaderboard.references import References
from ptjax.leaderboard.suite import Suite


def rank(suite: Suite, references: dict[str, References], entries: Sequence[Entry]) -> dict[str, Any]:
    """The contents of leaderboard.json (docs/leaderboard.md says what they mean).

    The score of a submission is the mean over tasks of the mean over runs of the headline. One that lacks a task, or a
    run of one, has none, and stands behind those that lack nothing. Who cannot be told from the next better one, nor
    from the best of those that share a rank with it, shares that rank.
    """
    bootstrap = _bootstrap(suite, references, entries)
    whole = {entry.name: {task for task, result in entry.results.items() if result.whole} for entry in entries}
    lacking = {
        entry.name: [task.name for task in suite.tasks if task.name not in whole[entry.name]] for entry in entries
    }
    complete = [entry for entry in entries if not lacking[entry.name]]
    scores = {entry.name: bootstrap.score(entry.name, suite.confidence) for entry in complete}
    order = sorted(complete, key=lambda entry: (-scores[entry.name].mean, entry.name))
    order += sorted((e for e in entries if lacking[e.name]), key=lambda e: (len(lacking[e.name]), e.name))

    def difference(one: Entry, other: Entry) -> Difference:
        return bootstrap.difference(one.name, other.name, suite.confidence)

    submissions: list[dict[str, Any]] = []
    leader = 0  # of those who share a rank
    for place, entry in enumerate(order):
        shares = place and not lacking[entry.name]
        if not (shares and submissions[-1]["versus_next"]["tie"] and difference(order[leader], entry).tie):
            leader = min(place, len(complete))
        ahead = place + 1 < len(complete)
        submissions.append(
            {
                "name": entry.name,
                "rank": leader + 1,
                "complete": not lacking[entry.name],
                "missing": [task.name for task in suite.tasks if task.name not in entry.results],
                "score": scores[entry.name].figures if entry.name in scores else None,
                "tasks": {
                    task.name: _task(entry.name, task.name, entry.results[task.name], bootstrap, suite.confidence)
                    for task in suite.tasks
                    if task.name in entry.results
                },
                "versus_next": _versus(order[place + 1].name, difference(entry, order[place + 1])) if ahead else None,
                "cost": entry.cost,
                "pretraining": entry.pretraining,
                "config": entry.config,
                "difference": _differences(entry.config, order[0].config),
            }
        )
    board = {
        "suite": {"name": suite.name, "tasks": [references[task.name].about() for task in suite.tasks]},
        "confidence": suite.confidence,
        "resamples": suite.resamples,
        "made": made(),
        "submissions": submissions,
        "failed": [{"submission": entry.name} | failure for entry in entries for failure in entry.failed],
    }
    return finite(board)


def made() -> dict[str, str]:
    """By which versions a report was made, and when."""
    return {
        "ptjax": ptjax.__version__,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "jax": version("jax"),
    }


def _bootstrap(suite: Suite, references: dict[str, References], entries: Sequence[Entry]) -> Bootstrap | None:
    tasks = []
    for task in (references[task.name].task for task in suite.tasks):
        examples, right, predictions = references[task.name].examples, None, {}
        for entry in entries:
            for run in entry.results[task.name].runs if task.name in entry.results else ():
                predicted, right = task.compared(run.answers, examples)
                predictions.setdefault(entry.name, []).append(predicted)
        if predictions:
            tasks.append(TaskScores.of(task.name, task.headline, predictions, right))
    return Bootstrap(tasks, suite.resamples) if tasks else None


def _task(name: str, task: str, result: Result, bootstrap: Bootstrap, confidence: float) -> dict[str, Any]:
    seeds = [next(iter(run.scores.values())) for run in result.runs]
    return {
        **bootstrap.task(task, name, confidence).figures,
        "spread": statistics.stdev(seeds) if len(seeds) > 1 else None,
        "seeds": seeds,
        "runs": [len(seeds), result.asked or len(seeds)],
        "learning_rate": result.learning_rate,
        "metrics": {
            metric: statistics.fmean(run.scores[metric] for run in result.runs) for metric in result.runs[0].scores
        },
        "grid": result.grid,
        "curves": result.curves,
    }


def _versus(name: str, found: Difference) -> dict[str, Any]:
    return {
        "name": name,
        "difference": found.mean,
        "low": found.low,
        "high": found.high,
        "p": found.p,
        "tie": found.tie,
    }


def _differences(config: dict[str, str], winner: dict[str, str]) -> list[list[str]]:
    keys = [key for key in {**config, **winner} if config.get(key) != winner.get(key)]
    return [[key, config.get(key, "nothing"), winner.get(key, "nothing")] for key in keys]
