"""A comparison as a value: a base experiment, the arms that change it, seeds, a budget and a suite."""

import math
import re
from collections.abc import Iterator
from typing import Literal

import chz

from ptjax.config import Config, UserError, override
from ptjax.leaderboard.suite import Suite
from ptjax.train import Experiment

Match = Literal["tokens", "predicted_tokens", "flops", "seconds"]
Allowed = Literal["code"]

# What the comparison itself decides, and how else to say it.
DECIDED = {
    "seed": "seeds of the comparison or of the arm",
    "steps": "the arm's budget, a multiple of the comparison's amount",
    "branch_from": "after and at",
    "until": "after and at of the arm that leaves there",
    "checkpoint": "base.checkpoint",
}


@chz.chz
class Arm(Config):
    """One side of a comparison: the base experiment with `changes`."""

    name: str = chz.field(doc="in tables and names of folders: letters, digits, - and _")
    changes: tuple[str, ...] = chz.field(default=(), doc="overrides as on the command line: objective=CausalLM")
    about: str = chz.field(default="", doc="a line for the report")
    budget: float = chz.field(default=1.0, doc="multiple of the comparison's amount that it spends")
    seeds: tuple[int, ...] | None = chz.field(default=None, doc="of its own; None: the comparison's, which pairs it")
    after: str | None = chz.field(
        default=None, doc="an arm of whose state it goes on from: weights, optimizer, place in the data"
    )
    at: float = chz.field(default=0.5, doc="share of the amount that is spent before it leaves that arm")
    curve: str | None = chz.field(default=None, doc="arms of one curve are sizes of one thing: their scaling is fitted")

    @chz.validate
    def _sensible(self):
        if not re.fullmatch(r"[A-Za-z0-9][\w-]*", self.name, re.ASCII):
            raise ValueError(f"arm {self.name!r}: letters, digits, - and _, the first one no sign")
        if not 0 < self.budget < math.inf:
            raise ValueError(f"arm {self.name}: budget={self.budget} is a multiple above 0")
        if self.seeds is not None:
            _check_seeds(f"arm {self.name}: seeds", self.seeds)
        if self.after is not None and not 0 < self.at < self.budget:
            raise ValueError(f"arm {self.name}: at={self.at} is a share of the amount, above 0 and below its budget")
        for change in self.changes:
            key = change.partition("=")[0]
            if said := DECIDED.get(key.partition(".")[0]):
                raise ValueError(f"arm {self.name}: {key} is not among its changes; set {said}")


@chz.chz
class Comparison(Config):
    """Which arm is better, and by how much more than noise.

    Every arm runs with every seed. Runs of one seed see the same documents in the same order and start from the same
    body, as far as their configs agree: what they saw is recorded, held against each other, and refused where it
    differs. Each arm spends the same amount of what `match` names, and takes as many steps as that buys.
    """

    instead = "this folder holds a comparison: its models are ARM/RUN, as comparison.html names them"

    name: str = chz.field(doc="in titles")
    question: str = chz.field(default="", doc="what is asked, a sentence for the report")
    base: Experiment = chz.field(doc="what all arms have in common")
    arms: tuple[Arm, ...] = chz.field(doc="what is compared; differences are shown for every pair")
    seeds: tuple[int, ...] = chz.field(default=(0, 1, 2), doc="of initial parameters, data order and masks")
    match: Match = chz.field(default="tokens", doc="what arms spend equally: tokens, predicted_tokens, flops, seconds")
    amount: float | None = chz.field(default=None, doc="of it, for each arm; None: what base.steps cost the base")
    rates: tuple[float, ...] = chz.field(
        default=(1.0,), doc="multiples of an arm's optimizer.peak_lr, tried with the first seed; the best one is used"
    )
    select: Literal["loss", "score"] = chz.field(
        default="loss", doc="what chooses the rate: an arm's own validation loss, or the suite's validation score"
    )
    suite: Suite | None = chz.field(default=None, doc="tasks that every run is fine-tuned on; None: pre-training alone")
    allow: tuple[Allowed, ...] = chz.field(default=(), doc="differences that are shown rather than refused: code")

    @chz.validate
    def _whole(self):
        names = [arm.name for arm in self.arms]
        if not names:
            raise ValueError("arms: at least one")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"arms: two are named {', '.join(twice)}; their folders have to be told apart")
        _check_seeds("seeds", self.seeds)
        if self.amount is not None and not 0 < self.amount < math.inf:
            raise ValueError(f"amount={self.amount}: above 0, in {self.match}")
        if not self.rates or len(set(self.rates)) < len(self.rates) or not all(0 < r < math.inf for r in self.rates):
            raise ValueError(f"rates={self.rates}: multiples above 0, at least one, and none twice")
        if self.select == "score" and (self.suite is None or all(task.zero_shot for task in self.suite.tasks)):
            raise ValueError("select=score asks for a suite with a task that is trained, to score on its validation")
        for key in ("branch_from", "until"):
            if getattr(self.base, key) is not None:
                raise ValueError(f"base.{key}: where runs begin and pause is the comparison's to say, by after and at")
        for arm in self.arms:
            if arm.after is not None and arm.after not in names:
                raise ValueError(f"arm {arm.name}: after={arm.after}, but there is no such arm")
        for arm in self.arms:
            self._check_branch(arm)
            self.changed(arm)

    def _check_branch(self, arm: Arm) -> None:
        if arm.after is None:
            return
        chain = [arm]
        while chain[-1].after is not None:
            parent = self.arm(chain[-1].after)
            if parent in chain:
                raise ValueError(
                    f"arm {arm.name} goes on from itself: {' after '.join(a.name for a in [*chain, parent])}"
                )
            chain.append(parent)
        parent = chain[1]
        if parent.after is not None and not parent.at < arm.at:
            raise ValueError(f"arm {arm.name} leaves {parent.name} at {arm.at}, before that has begun, at {parent.at}")
        if not arm.at <= parent.budget:
            raise ValueError(f"arm {arm.name}: at={arm.at} is behind the end of {parent.name} at {parent.budget}")
        if missing := set(self.seeds_of(arm)) - set(self.seeds_of(parent)):
            raise ValueError(f"arm {arm.name}: {parent.name} has no run of seed {', '.join(map(str, sorted(missing)))}")

    def arm(self, name: str) -> Arm:
        return next(arm for arm in self.arms if arm.name == name)

    def seeds_of(self, arm: Arm) -> tuple[int, ...]:
        return self.seeds if arm.seeds is None else arm.seeds

    def in_order(self) -> Iterator[Arm]:
        """Arms, each behind the one that it goes on from."""
        done: list[Arm] = []
        while len(done) < len(self.arms):
            for arm in self.arms:
                if arm not in done and (arm.after is None or self.arm(arm.after) in done):
                    done.append(arm)
                    yield arm

    def changed(self, arm: Arm) -> Experiment:
        """The arm's experiment, but for its steps, seed and rate. Raises UserError: a change that cannot be made."""
        try:
            return override(self.base, arm.changes)
        except UserError as error:
            raise UserError(f"arm {arm.name}: {error}") from None


def _check_seeds(name: str, seeds: tuple[int, ...]) -> None:
    if not seeds or len(set(seeds)) < len(seeds) or not all(0 <= seed < 2**32 for seed in seeds):
        raise ValueError(f"{name}={seeds}: at least one, none twice, all in [0, 2**32)")
