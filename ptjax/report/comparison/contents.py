"""A comparison.json as objects to draw: whatever is missing or no finite number in it is None or empty here."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

from ptjax.report.figures import NONE, number
from ptjax.report.series import Series
from ptjax.report.values import Interval, Measured, SuiteTask, differing, mapping, numbers, sequence, text

UNITS = {"tokens": "tokens", "predicted_tokens": "predictions", "flops": "FLOPs", "seconds": "seconds"}
SCORE = "score"
APART, BEFORE_ADJUSTING, TIE = "yes", "before adjusting", "no"  # whether two arms are told apart


@dataclass(frozen=True)
class Tried:
    """A run of the grid of learning rates."""

    rate: float
    peak: float | None
    loss: float | None
    score: float | None


@dataclass(frozen=True)
class Rates:
    """What was tried for an arm, and what was selected."""

    selected: float | None
    peak: float | None
    edge: bool
    grid: list[Tried]

    @classmethod
    def read(cls, value: Any) -> Self:
        value = mapping(value)
        rows = [mapping(row) for row in sequence(value.get("grid"))]
        tried = [Tried(*(number(row.get(k)) for k in ("rate", "peak_lr", "loss", "score"))) for row in rows]
        return cls(
            number(value.get("selected")),
            number(value.get("peak_lr")),
            bool(value.get("edge")),
            sorted((t for t in tried if t.rate is not None and t.rate > 0), key=lambda t: t.rate),
        )

    def means(self, what: str) -> dict[float, list[float]]:
        """Values of `loss` or `score` by rate."""
        found: dict[float, list[float]] = {}
        for tried in self.grid:
            value = getattr(tried, what)
            if value is not None:
                found.setdefault(tried.rate, []).append(value)
        return found


@dataclass(frozen=True)
class Arm:
    series: Series
    about: str
    changes: list[str]
    planned: int
    share: float | None
    after: dict
    objective: str
    budget: dict
    rates: Rates
    runs: list[dict]
    metric: str
    pretraining: Measured
    score: Measured
    results: dict[str, Measured]
    cost: dict
    config: dict
    difference: list[tuple[str, str, str]]

    @property
    def name(self) -> str:
        return self.series.name

    @property
    def step(self) -> dict:
        """What one step of it spends."""
        return mapping(self.budget.get("step"))

    @property
    def predicted(self) -> float | None:
        """Predictions a hundred tokens that it reads: an objective may ask more than one of a token."""
        read, asked = number(self.step.get("tokens")), number(self.step.get("predicted_tokens"))
        return 100 * asked / read if read and asked is not None else None

    @property
    def lacking(self) -> str:
        """Of how many of its seeds its score is, or its validation where it has none; empty where that is all."""
        found = len((self.pretraining if self.score.mean is None else self.score).seeds)
        return f"{found} of {self.planned} seeds" if 0 < found < self.planned else ""

    @classmethod
    def read(cls, index: int, value: Any) -> Self:
        value = mapping(value)
        made = mapping(value.get("pretraining"))
        return cls(
            series=Series(index, text(value.get("name"), f"arm {index + 1}")),
            about=text(value.get("about")),
            changes=[text(change) for change in sequence(value.get("changes"))],
            planned=len(numbers(value.get("seeds"))),
            share=number(value.get("share")),
            after=mapping(value.get("after")),
            objective=text(value.get("objective")),
            budget=mapping(value.get("budget")),
            rates=Rates.read(value.get("rate")),
            runs=[mapping(run) for run in sequence(value.get("runs"))],
            metric=text(made.get("metric"), "loss"),
            pretraining=Measured.of(made),
            score=Measured.of(value.get("score")),
            results={text(task): Measured.of(result) for task, result in mapping(value.get("tasks")).items()},
            cost=mapping(value.get("cost")),
            config=mapping(value.get("config")),
            difference=differing(value.get("difference")),
        )


@dataclass(frozen=True)
class TaskDifference(Interval):
    p: float | None

    @property
    def told_apart(self) -> bool:
        """Whether its interval lacks 0."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


@dataclass(frozen=True)
class Difference(Interval):
    """By how much arm `a` is above arm `b`, in score, or in a metric of validation, of which less is better.

    told: whether they are told apart: yes, before adjusting for the number of `pairs`, or no.
    """

    a: Series
    b: Series
    question: str
    metric: str
    p: float | None
    holm: float | None
    tie: bool
    told: str
    pairs: int
    paired: bool | None
    seeds: list[float]
    tasks: dict[str, TaskDifference]

    def turned(self) -> "Difference":
        """The same as the lead of the better arm, which is in front."""
        if self.mean is None:
            return self
        first = (self.mean >= 0) == (self.metric == SCORE) or not self.mean
        a, b = (self.a, self.b) if first else (self.b, self.a)
        mean, low, high = self.mean, self.low, self.high
        if mean < 0:
            mean, low, high = (None if v is None else -v for v in (mean, high, low))
        return replace(self, a=a, b=b, mean=mean, low=low, high=high, tasks={})


@dataclass(frozen=True)
class Proof:
    """That one thing is the same in all arms, or where it is not."""

    what: str
    status: str
    about: str
    checked: str
    groups: list[tuple[list[str], str]]

    @classmethod
    def read(cls, value: Any) -> Self:
        value = mapping(value)
        groups = [mapping(group) for group in sequence(value.get("groups"))]
        return cls(
            *(text(value.get(k)) for k in ("what", "status", "about", "checked")),
            groups=[([text(a) for a in sequence(g.get("arms"))], text(g.get("value"))) for g in groups],
        )


@dataclass(frozen=True)
class Question:
    """What validation asks, and how the runs that can answer it did while they trained."""

    question: str
    metric: str
    lines: list[tuple[Series, list]]


@dataclass(frozen=True)
class Asked:
    """Arms that validation asked the same question: their values of this metric compare."""

    question: str
    metric: str
    arms: list[Arm]


@dataclass(frozen=True)
class Fit:
    """A line through the arms of one curve."""

    curve: str
    y: str
    form: str
    points: list[tuple[Series, float, float]]
    slope: Interval
    p: float | None
    sizes: float | None
    r2: float | None
    band: list[tuple[float, float, float, float]]


@dataclass(frozen=True)
class Contents:
    name: str
    question: str
    match: str
    amount: float | None
    seeds: list
    select: str
    confidence: float
    resamples: Any
    made: dict
    complete: bool
    left: dict
    base: dict
    arms: list[Arm]
    questions: list[Question]
    suite: str | None
    tasks: list[SuiteTask]
    differences: list[Difference]
    pretraining: list[Difference]
    proven: bool | None
    proofs: list[Proof]
    fits: list[Fit]
    failed: list[dict]

    @classmethod
    def read(cls, made: Any) -> Self:
        made = mapping(made)
        arms = [Arm.read(k, value) for k, value in enumerate(sequence(made.get("arms")))]
        series = {arm.name: arm.series for arm in reversed(arms)}
        pairing, suite = mapping(made.get("pairing")), mapping(made.get("suite"))

        confidence = number(made.get("confidence")) or 0.95

        def named(value: Any) -> Series:
            return series.get(text(value), Series(None, text(value, "an arm")))

        return cls(
            name=text(made.get("name"), "unnamed"),
            question=text(made.get("question")),
            match=text(made.get("match"), "tokens"),
            amount=number(made.get("amount")),
            seeds=numbers(made.get("seeds")),
            select=text(made.get("select"), "loss"),
            confidence=confidence,
            resamples=made.get("resamples"),
            made=mapping(made.get("made")),
            complete=bool(made.get("complete")),
            left=mapping(made.get("left")),
            base=mapping(made.get("base")),
            arms=arms,
            questions=[_question(mapping(q), named) for q in sequence(made.get("curves"))],
            suite=text(suite.get("name"), "unnamed") if suite else None,
            tasks=SuiteTask.read_all(suite),
            differences=_differences(made.get("differences"), named, confidence),
            pretraining=_differences(made.get("pretraining_differences"), named, confidence, "loss"),
            proven=pairing.get("proven") if isinstance(pairing.get("proven"), bool) else None,
            proofs=[Proof.read(item) for item in sequence(pairing.get("items"))],
            fits=[_fit(mapping(f), named) for f in sequence(made.get("scaling"))],
            failed=[mapping(failure) for failure in sequence(made.get("failed"))],
        )

    @property
    def percent(self) -> str:
        return f"{100 * self.confidence:g}\u00a0%"

    @property
    def unit(self) -> str:
        """Of what arms spend equally, in words."""
        return UNITS.get(self.match, self.match)

    @cached_property
    def ranked(self) -> list[Arm]:
        """Arms with a score, the best first."""
        scored = [arm for arm in self.arms if arm.score.mean is not None]
        return sorted(scored, key=lambda arm: -arm.score.mean)

    @cached_property
    def asked(self) -> list[Asked]:
        """Arms that have been validated, by question: those with lines in one chart. What no chart has is alone."""
        found = [(Asked(q.question, q.metric, []), {series.name for series, _ in q.lines}) for q in self.questions]
        for arm in self.arms:
            if arm.pretraining.mean is None:
                continue
            its = next((one for one, names in found if one.metric == arm.metric and arm.name in names), None)
            if its is None:
                its = Asked(arm.objective or "question not known", arm.metric, [])
                found.append((its, set()))
            its.arms.append(arm)
        return [one for one, _ in found if one.arms]


def _differences(
    value: Any, named: Callable[[Any], Series], confidence: float, metric: str = SCORE
) -> list[Difference]:
    """metric: where a difference names none."""
    found = [_difference(mapping(d), named, metric) for d in sequence(value)]
    pairs = sum(d.p is not None for d in found)
    return [replace(d, pairs=pairs, told=_told(d, pairs, 1 - confidence)) for d in found]


def _told(d: Difference, pairs: int, alpha: float) -> str:
    if d.mean is None:
        return NONE
    if d.tie:
        return TIE
    return APART if pairs < 2 or d.holm is not None and d.holm <= alpha + 1e-12 else BEFORE_ADJUSTING


def _difference(value: dict, named: Callable[[Any], Series], metric: str) -> Difference:
    interval, paired = Interval.read(value), value.get("paired")
    tasks = {}
    for task, found in mapping(value.get("tasks")).items():
        one = Interval.read(found)
        tasks[text(task)] = TaskDifference(one.mean, one.low, one.high, number(mapping(found).get("p")))
    return Difference(
        interval.mean,
        interval.low,
        interval.high,
        a=named(value.get("a")),
        b=named(value.get("b")),
        question=text(value.get("question"), "question not known"),
        metric=text(value.get("metric"), metric),
        p=number(value.get("p")),
        holm=number(value.get("p_holm")),
        tie=bool(value.get("tie", True)),
        told=NONE,
        pairs=0,
        paired=paired if isinstance(paired, bool) else None,
        seeds=numbers(value.get("seeds")),
        tasks=tasks,
    )


def _question(value: dict, named: Any) -> Question:
    lines = [mapping(line) for line in sequence(value.get("lines"))]
    return Question(
        question=text(value.get("question"), "question not known"),
        metric=text(value.get("metric"), "loss"),
        lines=[(named(line.get("arm")), list(sequence(line.get("points")))) for line in lines],
    )


def _fit(value: dict, named: Any) -> Fit:
    points = [mapping(point) for point in sequence(value.get("points"))]
    places = [(named(p.get("arm")), number(p.get("flops")), number(p.get("value"))) for p in points]
    band = [numbers(row) for row in sequence(value.get("band"))]
    return Fit(
        curve=text(value.get("curve"), "unnamed"),
        y=text(value.get("y"), "value"),
        form=text(value.get("form")),
        points=[(series, x, y) for series, x, y in places if x is not None and x > 0 and y is not None],
        slope=Interval.read(value, "slope"),
        p=number(value.get("p")),
        sizes=number(value.get("sizes")),
        r2=number(value.get("r2")),
        band=[tuple(row) for row in band if len(row) == 4 and row[0] > 0],
    )
