"""The instrument, before it measures: is one arm against itself, with other seeds, within the noise, and are four times
the tokens seen?

An A/A comparison and a positive control. Base and tasks are those of stdlib.py, at laptop size: nothing to download.
"""

from pathlib import Path

import chz

from ptjax.compare import Arm, Comparison
from ptjax.config import load

STDLIB = Path(__file__).with_name("stdlib.py")


def get_config() -> Comparison:
    return chz.replace(
        load(f"{STDLIB}:steps=400"),
        name="instrument",
        question="Does a comparison see no difference where there is none, and one where there is?",
        arms=(
            Arm(name="a"),
            Arm(name="again", seeds=(3, 4, 5), about="the same, with other seeds"),
            Arm(name="tokens-x4", budget=4.0, about="the same, of four times the tokens"),
        ),
    )
