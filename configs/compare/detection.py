"""Does it pay to detect replaced tokens? RTD, whose generator is paid for, against MLM at equal FLOPs.

The trend that is looked at: Clark et al., 2020 (ELECTRA), where RTD beats MLM at equal cost, small models most of all.
Laptop size: a body of 0.4 million parameters and 1.6 million tokens, where ELECTRA-Small has 14 million. The generator
costs little here, as MLM at 30 % projects twice as many tokens onto the vocabulary as the generator at 15 % does. RTD
makes no likelihood of a text, so that minimal pairs are not among the tasks.

Base and corpus are those of objectives.py, which says what `books` and `tasks` are.
"""

from pathlib import Path

import chz

from ptjax.compare import Arm, Comparison
from ptjax.config import load

OBJECTIVES = Path(__file__).with_name("objectives.py")
SUITE = Path(__file__).parents[1] / "suites" / "small.py"


def get_config(books: str, tasks: str) -> Comparison:
    there = load(f"{OBJECTIVES}:books={books},tasks={tasks}")
    return chz.replace(
        there,
        name="detection",
        question="At equal FLOPs, is a body better that detects replaced tokens than one that fills masks?",
        arms=(
            Arm(name="mlm", about="30 of 100 tokens from all the others"),
            Arm(
                name="rtd",
                changes=("objective=RTD", "objective.rate=0.15"),
                about="which tokens a generator of a quarter's width made up",
            ),
        ),
        match="flops",
        suite=load(f"{SUITE}:data={tasks},pairs=False"),
    )
