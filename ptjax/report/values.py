"""What is read from JSON that anyone may have written: whatever is missing or no finite number is None or empty."""

from dataclasses import dataclass
from typing import Any, Self

from ptjax.report.figures import number


def mapping(value: Any) -> dict:
    return value if isinstance(value, dict) else {}


def sequence(value: Any) -> list | tuple:
    return value if isinstance(value, (list, tuple)) else []


def numbers(value: Any) -> list[float]:
    return [n for n in map(number, sequence(value)) if n is not None]


def text(value: Any, otherwise: str = "") -> str:
    return otherwise if value is None or value == "" else str(value)


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def differing(value: Any) -> list[tuple[str, str, str]]:
    """Key, this one's value and the other's."""
    rows = [sequence(row) for row in sequence(value)]
    return [(text(row[0]), text(row[1]), text(row[2])) for row in rows if len(row) == 3]


@dataclass(frozen=True)
class Interval:
    """A mean and the interval around it."""

    mean: float | None
    low: float | None
    high: float | None

    @classmethod
    def read(cls, value: Any, mean: str = "mean") -> Self:
        value = mapping(value)
        return cls(number(value.get(mean)), number(value.get("low")), number(value.get("high")))


@dataclass(frozen=True)
class Measured(Interval):
    """One value a seed, and their mean."""

    seeds: list[float]

    @classmethod
    def of(cls, value: Any) -> Self:
        interval = Interval.read(value)
        return cls(interval.mean, interval.low, interval.high, seeds=numbers(mapping(value).get("seeds")))


@dataclass(frozen=True)
class SuiteTask:
    name: str
    kind: str
    metric: str
    split: str
    examples: dict

    @classmethod
    def read_all(cls, suite: Any) -> list[Self]:
        tasks = [mapping(task) for task in sequence(mapping(suite).get("tasks"))]
        return [
            cls(
                text(task.get("name"), f"task {k + 1}"),
                text(task.get("kind")),
                text(task.get("metric")),
                text(task.get("split"), "test"),
                mapping(task.get("examples")),
            )
            for k, task in enumerate(tasks)
        ]
