"""What a step of each arm costs, and how many steps the same amount buys it.

Tokens are those of the rows; predicted tokens are the predictions that the objective asks for (`Objective.predicted`:
15 of 100 tokens for masked language modelling, about 100 for causal); FLOPs are those of the formula that counts matrix
products. Seconds are measured, and so is what the compiler counts of FLOPs, which is shown beside the formula.
"""

import bisect
import dataclasses
import hashlib
import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import chz
import jax

from ptjax.compare.comparison import Arm, Comparison
from ptjax.config import UserError, to_json
from ptjax.data.pipeline import batch_at
from ptjax.data.prepared import Prepared
from ptjax.data.tokenizers import VocabSpec
from ptjax.files import write_json
from ptjax.objectives.base import Objective
from ptjax.summary import count
from ptjax.train import Experiment, Run

COSTS = "costs.json"
BASE = ""  # the base experiment's name among those that are measured
ROUNDS, SECONDS = 3, 1.0  # each arm is timed so often, every time for about so long


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of a step, or of several. predicted: predictions asked for, by term of the loss. seconds, flops_compiled: None
    where they were not measured."""

    tokens: float
    predicted: Mapping[str, float]
    flops: float
    flops_compiled: float | None = None
    seconds: float | None = None

    @property
    def predicted_tokens(self) -> float:
        return sum(self.predicted.values())

    def __add__(self, other: "Cost") -> "Cost":
        terms = {**self.predicted, **other.predicted}
        predicted = {name: self.predicted.get(name, 0.0) + other.predicted.get(name, 0.0) for name in terms}
        return Cost(
            self.tokens + other.tokens,
            predicted,
            self.flops + other.flops,
            _both(self.flops_compiled, other.flops_compiled),
            _both(self.seconds, other.seconds),
        )

    def __mul__(self, steps: float) -> "Cost":
        times = lambda value: None if value is None else steps * value  # noqa: E731
        predicted = {name: steps * value for name, value in self.predicted.items()}
        return Cost(steps * self.tokens, predicted, steps * self.flops, times(self.flops_compiled), times(self.seconds))


NOTHING = Cost(0.0, {}, 0.0, 0.0, 0.0)


def _both(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a + b


@dataclasses.dataclass(frozen=True)
class Measured:
    """Of one experiment, a step of each of its stages. sha256: of its config."""

    sha256: str
    parameters: int
    flops: tuple[float | None, ...]
    seconds: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Allotment:
    """What an arm gets. steps: in all, those of its prefix among them. start: where it leaves the arm that it goes on
    from, in steps; 0 for an arm of its own. step: the mean cost of its own steps, those behind `start`. total: of one
    run, prefix included. parameters: None where they were not counted."""

    steps: int
    start: int
    step: Cost
    total: Cost
    parameters: int | None


class Budget:
    """Steps for every arm of a comparison. Raises UserError: a corpus that is not prepared; an amount that buys no
    step; seconds that were not measured."""

    def __init__(self, comparison: Comparison, measured: Mapping[str, Measured]):
        self.comparison, self._measured = comparison, measured
        self._vocabs: dict[str, VocabSpec] = {}
        self.amount = comparison.amount
        if self.amount is None:
            steps = comparison.base.steps
            self.amount = _matched(self._between(BASE, comparison.base, steps, 0, steps), comparison.match)
        self._changed = {arm.name: comparison.changed(arm) for arm in comparison.arms}
        self.arms: dict[str, Allotment] = {}
        for arm in comparison.in_order():
            self.arms[arm.name] = self._allot(arm)

    def spent(self, arm: Arm, step: int) -> float:
        """Of what is matched, after so many steps of a run of the arm, its prefix included."""
        given = self.arms[arm.name]
        return _matched(self._total(arm, given.start, given.steps, step), self.comparison.match)

    def _allot(self, arm: Arm) -> Allotment:
        start, amount = 0, arm.budget * self.amount
        if arm.after is not None:
            start = self._leaves(arm)
        steps = self._steps(arm, start, amount)
        if steps <= start:
            unit = _matched(self._total(arm, start, start + 1, start + 1), self.comparison.match)
            raise UserError(
                f"arm {arm.name}: {arm.budget:g} x {self.amount:.4g} {self.comparison.match} buy less than one step of "
                f"its own; {start + 1} steps cost {unit:.4g}: raise the amount"
            )
        total = self._total(arm, start, steps, steps)
        own = self._between(arm.name, self._changed[arm.name], steps, start, steps) * (1 / (steps - start))
        mine = self._measured.get(arm.name)
        return Allotment(steps, start, own, total, mine and mine.parameters)

    def _leaves(self, arm: Arm) -> int:
        """The step at which it leaves the arm that it goes on from."""
        parent = self.comparison.arm(arm.after)
        given, target = self.arms[parent.name], arm.at * self.amount
        step = _nearest(lambda step: self.spent(parent, step), target, given.start, given.steps)
        if step <= given.start:
            raise UserError(
                f"arm {arm.name}: at={arm.at:g} is not one step after {parent.name} begins, at step {given.start}: "
                "leave it later"
            )
        return step

    def _steps(self, arm: Arm, start: int, amount: float) -> int:
        """How many steps in all cost nearest to the amount."""

        def cost(steps: int) -> float:
            return _matched(self._total(arm, start, steps, steps), self.comparison.match)

        shortest = start + len(self._changed[arm.name].objective.parts())  # a step for every stage
        longest = max(2 * shortest, 2)
        while cost(longest) < amount:
            longest *= 2
        return _nearest(cost, amount, start, longest)

    def _total(self, arm: Arm, start: int, steps: int, step: int) -> Cost:
        """Of the first `step` steps of a run of the arm that has `steps` and begins at `start`."""
        before = NOTHING
        if arm.after is not None:
            parent = self.comparison.arm(arm.after)
            given = self.arms[parent.name]
            before = self._total(parent, given.start, given.steps, min(step, start))
        return before + self._between(arm.name, self._changed[arm.name], steps, start, step)

    def _between(self, name: str, experiment: Experiment, steps: int, start: int, stop: int) -> Cost:
        """Of the steps from `start` up to `stop` of a run of `steps`."""
        if stop <= start:
            return NOTHING
        total = NOTHING
        for place, stage in enumerate(experiment.objective.stages(steps)):
            count = min(stop, stage.stop) - max(start, stage.start)
            if count > 0:
                total += self._step(name, experiment, stage.objective, place) * count
        return total

    def _step(self, name: str, e: Experiment, objective: Objective, place: int) -> Cost:
        """Of a step that asks the questions of one stage."""
        rows, length = e.data.batch_size, e.data.length
        flops = 3.0 * rows * objective.flops_per_row(e.model, length, e.objective.vocabulary(self._vocab(e)))
        predicted = {term: rows * value for term, value in objective.predicted(length).items()}
        plain = Cost(e.tokens_per_step(), predicted, flops)
        if name not in self._measured:
            return plain
        measured = self._measured[name]
        return dataclasses.replace(plain, flops_compiled=measured.flops[place], seconds=measured.seconds[place])

    def _vocab(self, experiment: Experiment) -> VocabSpec:
        corpus = experiment.data.corpus
        key = to_json(corpus)
        if key not in self._vocabs:
            self._vocabs[key] = Prepared.open(corpus).tokenizer.vocab
        return self._vocabs[key]


def _nearest(cost: Callable[[int], float], target: float, low: int, high: int) -> int:
    """The step in [low, high] whose cost, which grows with it, is nearest to the target."""
    at = low + bisect.bisect_left(range(low, high), target, key=cost)
    return at - 1 if at > low and target - cost(at - 1) < cost(at) - target else at


def _matched(cost: Cost, match: str) -> float:
    value = getattr(cost, match)
    if value is None:
        raise UserError(
            "match=seconds: the steps of the arms have not been timed yet; --measure does that, and nothing else"
        )
    return value


# Measuring.


def read_costs(workdir: Path) -> dict[str, Measured]:
    """By arm; empty where nothing has been measured. Raises UserError where the file is damaged."""
    path = workdir / COSTS
    try:
        found = json.loads(path.read_text())
        return {
            name: Measured(m["sha256"], m["parameters"], tuple(m["flops"]), tuple(m["seconds"]))
            for name, m in found.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}): delete it, and steps are measured again") from None


def not_measured(comparison: Comparison, measured: Mapping[str, Measured]) -> dict[str, Experiment]:
    """Experiments, by arm, that no measurement of theirs is known of."""
    wanted = {arm.name: comparison.changed(arm) for arm in comparison.arms}
    if comparison.match == "seconds" and comparison.amount is None:
        wanted[BASE] = comparison.base
    return {
        name: experiment
        for name, experiment in wanted.items()
        if name not in measured or measured[name].sha256 != digest(experiment)
    }


def known(comparison: Comparison, measured: Mapping[str, Measured]) -> dict[str, Measured]:
    """Those that are of arms as they are now."""
    left = not_measured(comparison, measured)
    return {name: m for name, m in measured.items() if name not in left}


def measure(comparison: Comparison, workdir: Path) -> None:
    """Compiles and times a training step of every arm that has not been, and keeps what is found in `workdir`.

    Arms take turns, so that a machine that gets slower is slow for all. Beside arms that were added later runs one that
    was there, and their seconds are told in its: the same machine on another day would not be fair.
    """
    there = read_costs(workdir)
    wanted = not_measured(comparison, there)
    if not wanted:
        return
    there = known(comparison, there)
    reference = next((arm for arm in comparison.arms if arm.name in there), None)
    if reference is not None:
        wanted = {reference.name: comparison.changed(reference)} | wanted
    found = _measured(wanted)
    if reference is not None:
        factor = sum(there[reference.name].seconds) / sum(found.pop(reference.name).seconds)
        found = {
            name: dataclasses.replace(m, seconds=tuple(factor * s for s in m.seconds)) for name, m in found.items()
        }
    write_json(workdir / COSTS, {name: dataclasses.asdict(m) for name, m in (there | found).items()})


def _measured(experiments: Mapping[str, Experiment]) -> dict[str, Measured]:
    timed = {}
    for name, experiment in experiments.items():
        try:
            timed[name] = _Timed(experiment)
        except UserError as error:
            raise UserError(f"arm {name}: {error}" if name else str(error)) from None
    for _ in range(ROUNDS):
        for one in timed.values():
            one.take_turn()
    return {name: one.result(experiments[name]) for name, one in timed.items()}


class _Timed:
    """Compiled steps of an experiment, one a stage. State is made for each turn and given up after it: of several arms
    only one is in memory."""

    def __init__(self, experiment: Experiment):
        self._run = run = Run.open(experiment)
        self._starts = [stage.start for stage in run.learner.stages]
        self._batch = batch_at(run.pipeline, 0, run.shard)
        self._seconds: list[list[float]] = [[] for _ in self._starts]

    def take_turn(self) -> None:
        run = self._run
        for start, seconds in zip(self._starts, self._seconds):
            step, state = run.train_step(start), run.init()
            batch = step.place(self._batch)
            state, _ = jax.block_until_ready(step(state, batch))  # compiles in the first turn
            until = time.perf_counter() + SECONDS
            while not seconds or time.perf_counter() < until:
                begin = time.perf_counter()
                state, _ = jax.block_until_ready(step(state, batch))
                seconds.append(time.perf_counter() - begin)

    def result(self, experiment: Experiment) -> Measured:
        flops = [_compiled_flops(self._run, start) for start in self._starts]
        seconds = [statistics.median(found) for found in self._seconds]
        return Measured(digest(experiment), count(self._run.learner.params_shape), tuple(flops), tuple(seconds))


def _compiled_flops(run: Run, start: int) -> float | None:
    """Of the training step, all devices together, as the compiler counts them: of layers that are written out, as it
    counts a scanned one once. None where it does not say."""
    experiment = run.experiment
    if not experiment.model.unrolled():
        run = Run.open(chz.replace(experiment, model=chz.replace(experiment.model, unroll=True)))
    step = run.train_step(start)
    if step.lower is None:
        return None
    batch = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in batch_at(run.pipeline, 0).items()}
    costs = step.lower(run.abstract, batch).compile().cost_analysis() or {}
    flops = costs.get("flops")
    return flops * jax.device_count() if flops and flops > 0 else None


# Keys that change no step's cost.
IDLE = ("steps", "seed", "init_from", "checkpoint", "evaluation", "logging", "profile")


def digest(experiment: Experiment) -> str:
    """SHA-256 of what decides the cost of its steps."""
    flat = json.loads(to_json(experiment))
    kept = {key: value for key, value in flat.items() if key.partition(".")[0] not in IDLE}
    return hashlib.sha256(json.dumps(kept).encode()).hexdigest()
