"""From values to places along an axis, with ticks a reader would choose."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Self

from ptjax.report.figures import MINUS, count


@dataclasses.dataclass(frozen=True)
class Scale:
    """An axis from `low` to `high`, which lie on ticks `step` apart."""

    low: float
    high: float
    step: float

    @classmethod
    def around(cls, values: Iterable[float], ticks: int = 4, least: float = 0.0, limit: float = float("inf")) -> Self:
        """Holds all values between the nearest round numbers, about `ticks` steps apart.

        Args:
          least: no shorter than this, nor than a fiftieth of the values: differences below that are none to look at.
          limit: where values end by definition; the axis then goes no farther.
        """
        values = list(values) or [0.0, 1.0]
        low, high = min(values), max(values)
        length = max(high - low, least, abs(high) / 50, 1e-9)
        high = max(high, min((low + high + length) / 2, limit))
        low = min(low, high - length)
        rough = length / ticks
        power = 10 ** math.floor(math.log10(rough))
        step = next(power * k for k in (1, 2, 5, 10) if rough <= power * k * 1.0001)
        return cls(math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, step)

    def at(self, value: float) -> float:
        """0 at the lower end, 1 at the upper, never outside."""
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)

    def ticks(self) -> list[tuple[float, str]]:
        """Places in [0, 1], each with its label."""
        decimals = max(0, -math.floor(math.log10(self.step) + 1e-9))
        values = [self.low + k * self.step for k in range(round((self.high - self.low) / self.step) + 1)]
        big = max(abs(self.low), abs(self.high)) >= 10_000
        return [
            (self.at(v), _big(v) if big else f"{round(v, decimals) + 0.0:.{decimals}f}".replace("-", MINUS))
            for v in values
        ]


def _big(value: float) -> str:
    return count(value).replace(".0\u00a0", "\u00a0").replace("\u00a0", "").replace("-", MINUS)
