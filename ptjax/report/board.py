"""A leaderboard.json as objects to draw: whatever is missing or no finite number in it is None or empty here."""

from dataclasses import dataclass
from typing import Any, Self

from ptjax.report.figures import number
from ptjax.report.series import Series
from ptjax.report.values import Interval, Measured, SuiteTask, differing, mapping, numbers, sequence, text


@dataclass(frozen=True)
class Result(Measured):
    """A submission on a task."""

    spread: float | None
    lacking: str | None
    learning_rate: float | None
    grid: list[tuple[float, float]]
    curves: list[dict]

    @classmethod
    def of(cls, value: Any) -> Self:
        value, interval = mapping(value), Interval.read(value)
        seeds = numbers(value.get("seeds"))
        grid = [(number(row[0]), number(row[2])) for row in sequence(value.get("grid")) if len(sequence(row)) == 3]
        return cls(
            interval.mean,
            interval.low,
            interval.high,
            seeds=seeds,
            spread=number(value.get("spread")) if len(seeds) > 1 else None,
            lacking=_lacking(sequence(value.get("runs"))),
            learning_rate=number(value.get("learning_rate")),
            grid=sorted((r, v) for r, v in grid if r is not None and r > 0 and v is not None),
            curves=[mapping(curve) for curve in sequence(value.get("curves"))],
        )


@dataclass(frozen=True)
class Lead:
    """By how much a submission is ahead of the next one."""

    name: str
    difference: Interval
    p: float | None
    tie: bool


@dataclass(frozen=True)
class Submission:
    series: Series
    rank: int | None
    complete: bool
    missing: list[str]
    score: Interval
    results: dict[str, Result]
    lead: Lead | None
    cost: dict
    pretraining: dict
    config: dict
    difference: list[tuple[str, str, str]]

    @property
    def name(self) -> str:
        return self.series.name

    @classmethod
    def read(cls, index: int, value: Any) -> Self:
        value = mapping(value)
        lead, rank = mapping(value.get("versus_next")), number(value.get("rank"))
        return cls(
            series=Series(index, text(value.get("name"), f"submission {index + 1}")),
            rank=None if rank is None else int(rank),
            complete=bool(value.get("complete", not value.get("missing"))),
            missing=[text(name) for name in sequence(value.get("missing"))],
            score=Interval.read(value.get("score")),
            results={text(task): Result.of(result) for task, result in mapping(value.get("tasks")).items()},
            lead=Lead(
                text(lead.get("name")),
                Interval.read(lead, "difference"),
                number(lead.get("p")),
                bool(lead.get("tie")),
            )
            if lead
            else None,
            cost=mapping(value.get("cost")),
            pretraining=mapping(value.get("pretraining")),
            config=mapping(value.get("config")),
            difference=differing(value.get("difference")),
        )


@dataclass(frozen=True)
class Board:
    suite: str
    tasks: list[SuiteTask]
    submissions: list[Submission]
    failed: list[dict]
    confidence: float
    resamples: Any
    made: dict

    @classmethod
    def read(cls, board: Any) -> Self:
        board = mapping(board)
        suite = mapping(board.get("suite"))
        return cls(
            suite=text(suite.get("name"), "unnamed"),
            tasks=SuiteTask.read_all(suite),
            submissions=[Submission.read(k, value) for k, value in enumerate(sequence(board.get("submissions")))],
            failed=[mapping(failure) for failure in sequence(board.get("failed"))],
            confidence=number(board.get("confidence")) or 0.95,
            resamples=board.get("resamples"),
            made=mapping(board.get("made")),
        )

    @property
    def percent(self) -> str:
        return f"{100 * self.confidence:g}\u00a0%"

    def results(self, task: SuiteTask) -> list[tuple[Submission, Result]]:
        """Of the submissions that have one, the best first."""
        found = [(s, s.results[task.name]) for s in self.submissions if task.name in s.results]
        return [(s, r) for s, r in found if r.mean is not None]


def _lacking(runs: list | tuple) -> str | None:
    """In words, where of the runs that were asked for fewer are done."""
    done, asked = (number(run) for run in runs) if len(runs) == 2 else (None, None)
    return f"{done:.0f} of {asked:.0f} seeds" if done is not None and asked is not None and done < asked else None
