"""A run while it goes on."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from ptjax.finetune.cells import Cell
from ptjax.tasks.base import Answer
from ptjax.types import PyTree


@dataclasses.dataclass
class Log:
    """What is known of it.

    params, answers: of the best validation, which was after step `best_step`. over: it learns no more, because patience
    has ended or its loss is not finite, of which `problem` tells.
    """

    cell: Cell
    loss: list[tuple[int, float]] = dataclasses.field(default_factory=list)
    validation: list[tuple[int, float]] = dataclasses.field(default_factory=list)
    params: PyTree = None
    answers: list[Answer] | None = None
    best_step: int = 0
    worse: int = 0
    tokens: int = 0
    flops: float = 0.0
    over: bool = False
    problem: str | None = None

    @property
    def best(self) -> float:
        return max((score for _, score in self.validation), default=-math.inf)

    def learned(self, losses: Sequence[tuple[int, float]]) -> bool:
        """Takes the losses since the last time; whether it still can be validated."""
        self.loss += losses
        step, last = self.loss[-1]
        if not math.isfinite(last):
            self.over = True
            self.problem = f"the loss of step {step} is not finite: a lower learning rate may help"
        return not self.over

    def validated(
        self, score: float, answers: list[Answer], params: Callable[[], PyTree], patience: int | None
    ) -> None:
        """The first of equal scores is the best. params: gives a copy of what was validated."""
        better = score > self.best
        self.validation.append((self.loss[-1][0], score))
        if better:
            self.params, self.answers, self.best_step, self.worse = params(), answers, self.loss[-1][0], 0
        else:
            self.worse += 1
        self.over = patience is not None and self.worse >= patience

    def recent(self) -> float:
        """Mean loss since the validation before the last."""
        since = self.validation[-2][0] if len(self.validation) > 1 else 0
        return float(np.mean([value for step, value in self.loss if step > since]))


def rounded_curve(curve: Sequence[tuple[int, float]], most: int = 200) -> list[list[float]]:
    """At most so many points of [step, value], each the mean of a stretch of steps; what is not finite is left out."""
    curve = [(step, value) for step, value in curve if math.isfinite(value)]
    width = -(-len(curve) // most) or 1
    stretches = [curve[i : i + width] for i in range(0, len(curve), width)]
    return [[some[-1][0], float(f"{sum(value for _, value in some) / len(some):.5g}")] for some in stretches]
