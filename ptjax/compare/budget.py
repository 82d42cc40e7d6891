"""What a step of each arm costs, and how many steps the same amount buys it.

Tokens are those of the rows; predicted tokens are the predictions that the objective asks for (`Objective.predicted`:
15 of 100 tokens for masked language modelling, about 100 for causal); FLOPs are those of the formula that counts matrix
products. Seconds are measured, and so is what the compiler counts of FLOPs, which is shown beside the formula.
"""

import dataclasses
import hashlib
import json
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

import chz
import jax

from ptjax.compare.comparison import Arm, Comparison
from ptjax.config import UserError, to_json
from ptjax.data.pipeline import batch_at
from ptjax.data.prepared import Prepared
from ptjax.data.tokenizers import VocabSpec
from ptjax.files import write_json
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
    from, in steps; 0 for an arm of its own. step: the mean cost of its own steps. total: of one run, prefix included.
    parameters: None where they were not counted."""

    steps: int
    start: int
    step: Cost
    total: Cost
    parameters: int | None


class Budget:
    """Steps for every arm of a comparison. Raises UserError: a corpus that is not prepared; an amount that buys no
    step; seconds that were not measured."""

    def __init__(self, comparison: Comparison, measured: Mapping[str, Measured]):
        self.comparison = comparison
        self._measured = measured
        self._vocabs: dict[str, VocabSpec] = {}
        self._experiments = {arm.name: comparison.changed(arm) for arm in comparison.arms} | {BASE: comparison.base}
        self.amount = comparison.amount
        if self.amount is None:
            self.amount = comparison.base.steps * self._unit(BASE)
        self.arms: dict[str, Allotment] = {}
        for arm in comparison.in_order():
            self.arms[arm.name] = self._allot(arm)

    def spent(self, arm: Arm, step: int) -> float:
        """Of what is matched, after so many steps of a run of the arm, its prefix included."""
        return _matched(self._total(arm, step), self.comparison.match)

    def step_at(self, arm: Arm, share: float) -> int:
        """Of a run of the arm, when this share of the amount is spent."""
        before, start = (0.0, 0) if arm.after is None else (arm.at, self._leaves(arm))
        return start + round((share - before) * self.amount / self._unit(arm.name))

    def _leaves(self, arm: Arm) -> int:
        return self.step_at(self.comparison.arm(arm.after), arm.at)

    def _allot(self, arm: Arm) -> Allotment:
        start = 0 if arm.after is None else self._leaves(arm)
        steps = self.step_at(arm, arm.budget)
        if steps <= start or (arm.after is not None and start < 1):
            unit = self._unit(arm.name)
            raise UserError(
                f"arm {arm.name}: {arm.budget:g} x {self.amount:.4g} {self.comparison.match} buy less than one step of "
                f"its own, which costs {unit:.4g}: raise the amount"
            )
        mine = self._measured.get(arm.name)
        step = self._cost(arm.name)
        return Allotment(steps, start, step, self._total(arm, steps), mine and mine.parameters)

    def _total(self, arm: Arm, step: int) -> Cost:
        """Of the first `step` steps of a run of the arm."""
        if arm.after is None:
            return self._cost(arm.name) * step
        start = self._leaves(arm)
        parent = self.comparison.arm(arm.after)
        return self._total(parent, min(step, start)) + self._cost(arm.name) * max(step - start, 0)

    def _unit(self, name: str) -> float:
        return _matched(self._cost(name), self.comparison.match)

    def _cost(self, name: str) -> Cost:
        """Of the experiment's mean step."""
        e = self._experiments[name]
        vocab = e.objective.vocabulary(self._vocab(e))
        rows, length = e.data.batch_size, e.data.length
        predicted = {term: rows * value for term, value in e.objective.predicted(length).items()}
        plain = Cost(e.tokens_per_step(), predicted, e.flops_per_step(vocab))
        if name not in self._measured:
            return plain
        measured = self._measured[name]
        stages = e.objective.stages(e.steps)
        shares = [(stage.stop - stage.start) / e.steps for stage in stages]
        mean = lambda values: None if None in values else sum(s * v for s, v in zip(shares, values))  # noqa: E731
        return dataclasses.replace(plain, flops_compiled=mean(measured.flops), seconds=mean(measured.seconds))

    def _vocab(self, experiment: Experiment) -> VocabSpec:
        corpus = experiment.data.corpus
        if corpus.path not in self._vocabs:
            self._vocabs[corpus.path] = Prepared.open(corpus).tokenizer.vocab
        return self._vocabs[corpus.path]


def _matched(cost: Cost, match: str) -> float:
    value = getattr(cost, match)
    if value is None:
        raise UserError("match=seconds: the steps of the arms have not been timed yet")
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


def measure(comparison: Comparison, workdir: Path) -> None:
    """Compiles and times a training step of every arm that has not been, and keeps what is found in `workdir`.

    Arms take turns, so that a machine that gets slower is slow for all. Beside arms that were added later runs one that
    was there, and their seconds are told in its: the same machine on another day would not be fair.
    """
    known = {name: m for name, m in read_costs(workdir).items() if _still(comparison, name, m)}
    wanted = not_measured(comparison, known)
    if not wanted:
        return
    experiments = {arm.name: comparison.changed(arm) for arm in comparison.arms}
    reference = next((name for name in known if name in experiments), None)
    if reference is not None:
        wanted = {reference: experiments[reference]} | wanted
    found = _measured(wanted)
    if reference is not None:
        factor = sum(known[reference].seconds) / sum(found.pop(reference).seconds)
        found = {
            name: dataclasses.replace(m, seconds=tuple(factor * s for s in m.seconds)) for name, m in found.items()
        }
    write_json(workdir / COSTS, {name: dataclasses.asdict(m) for name, m in (known | found).items()})


def _still(comparison: Comparison, name: str, measured: Measured) -> bool:
    """Whether it is of an arm as it is now; those of arms that are gone are kept, they may come back."""
    if name not in [arm.name for arm in comparison.arms]:
        return name != BASE or measured.sha256 == digest(comparison.base)
    return measured.sha256 == digest(comparison.changed(comparison.arm(name)))


def _measured(experiments: Mapping[str, Experiment]) -> dict[str, Measured]:
    timed = {name: _Timed(experiment) for name, experiment in experiments.items()}
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


def digest(experiment: Experiment) -> str:
    """Of its config, SHA-256."""
    return hashlib.sha256(to_json(experiment).encode()).hexdigest()
