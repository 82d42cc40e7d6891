"""How much better does MLM get with larger bodies? Four sizes of one body read the same million tokens of the standard
library, and a line is put through what they reach.

What is looked at is loss over size at equal tokens and one rate for all, a factor of ten or so in FLOPs: not the
compute-optimal law of Kaplan et al. (2020) or Hoffmann et al. (2022), whose tokens grow with the model. Base and corpus
are those of stdlib.py; no tasks.
"""

from pathlib import Path

import chz

from ptjax.compare import Arm, Comparison
from ptjax.config import load

STDLIB = Path(__file__).with_name("stdlib.py")


def get_config() -> Comparison:
    def size(layers: int, width: int) -> Arm:
        changes = dict(layers=layers, width=width, hidden=3 * width // 2)
        return Arm(
            name=f"{layers}x{width}",
            changes=tuple(f"model.{key}={value}" for key, value in changes.items()),
            about=f"{layers} layers of width {width}",
            curve="mlm",
        )

    return chz.replace(
        load(f"{STDLIB}"),
        name="sizes",
        question="How does the loss of masked language modelling fall with FLOPs, where larger bodies read the same?",
        arms=(size(2, 48), size(2, 64), size(3, 96), size(4, 128)),
        suite=None,
    )
