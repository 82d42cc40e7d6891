"""What laws return."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Result:
    """What a law found.

    passed: None where the law does not apply, and `note` says why. number: what was measured. limit: what it must not
    exceed, or not fall below where `floor`. law: its name.
    """

    passed: bool | None
    number: float | None = None
    limit: float | None = None
    floor: bool = False
    note: str = ""
    law: str = ""


def at_most(number: float, limit: float, note: str = "") -> Result:
    return Result(bool(number <= limit), float(number), float(limit), False, note)  # NaN has not passed


def at_least(number: float, limit: float, note: str = "") -> Result:
    return Result(bool(number >= limit), float(number), float(limit), True, note)


def failed(note: str) -> Result:
    return Result(False, note=note)


def skipped(note: str) -> Result:
    return Result(None, note=note)


def worst(results: list[tuple[str, Result]]) -> Result:
    """One result of several, by what each is about: the first that failed, else the one closest to its limit."""

    def rank(result: Result) -> tuple[int, float]:
        if result.passed is None or result.number is None:
            return {False: 0, True: 2, None: 3}[result.passed], 0.0
        room = (result.number - result.limit) if result.floor else (result.limit - result.number)
        return (1 if result.passed else 0), room / (abs(result.limit) or 1.0)

    label, found = min(results, key=lambda pair: rank(pair[1]))
    return dataclasses.replace(found, note=f"{label}: {found.note}".removesuffix(": ")) if len(results) > 1 else found


def of_each_part(law: Callable[[Any], Result]) -> Callable[[Any], Result]:
    """The law, asked of each of the objectives that a subject's is put together from."""

    @functools.wraps(law)
    def asked(subject) -> Result:
        return worst([(type(part.objective).__name__, law(part)) for part in subject.parts])

    return asked
