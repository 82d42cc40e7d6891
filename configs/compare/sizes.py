"""How much better does MLM get with more of everything? Four sizes of one body, each reading about as many tokens a
parameter, and a line through what they reach.

The trend that is looked at: loss falls as a power of FLOPs (Kaplan et al., 2020; Hoffmann et al., 2022). Laptop size:
a factor of 30 in FLOPs, where theirs is millions. Base and corpus are those of stdlib.py; no tasks.
"""

from pathlib import Path

import chz

from ptjax.compare import Arm, Comparison
from ptjax.config import load

STDLIB = Path(__file__).with_name("stdlib.py")


def get_config() -> Comparison:
    def size(layers: int, width: int, budget: float) -> Arm:
        sizes = dict(layers=layers, width=width, hidden=3 * width // 2)
        return Arm(
            name=f"{layers}x{width}",
            changes=tuple(f"model.{key}={value}" for key, value in sizes.items()),
            budget=budget,
            curve="mlm",
        )

    return chz.replace(
        load(f"{STDLIB}"),
        name="sizes",
        question="How does the loss of masked language modelling fall with FLOPs, where tokens grow with parameters?",
        arms=(size(2, 64, 0.4), size(3, 96, 1.0), size(4, 128, 2.0)),
        suite=None,
    )
