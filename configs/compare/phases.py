"""Should an encoder begin as a decoder? A causal model that goes on with MLM, against MLM alone, at equal FLOPs.

The trend that is looked at: Gisserot-Boukhlef et al., 2025, "Should we still pretrain encoders with masked language
modeling?" (arXiv 2507.00994), where causal language modelling and then MLM beats MLM alone in a fixed budget of steps.
Here FLOPs are equal, and at this size the output over the vocabulary makes a causal step cost 1.4 of MLM's: `half`
reads a seventh less text than `mlm`. Laptop size: a body of 0.4 million parameters, where theirs had up to a billion.

Base, corpus and tasks are those of objectives.py, which says what `books` and `tasks` are.
"""

from pathlib import Path

import chz

from ptjax.compare import Arm, Comparison
from ptjax.config import load

OBJECTIVES = Path(__file__).with_name("objectives.py")


def get_config(books: str, tasks: str) -> Comparison:
    there = load(f"{OBJECTIVES}:books={books},tasks={tasks}")
    then = "causal language modelling for {} of the FLOPs, then MLM"
    return chz.replace(
        there,
        name="phases",
        question="At equal FLOPs, is an encoder better that begins with causal language modelling?",
        arms=(
            Arm(name="mlm", about="MLM alone"),
            Arm(name="causal", changes=("objective=CausalLM",), about="causal language modelling alone"),
            Arm(name="quarter", after="causal", at=0.25, about=then.format("a quarter")),
            Arm(name="half", after="causal", at=0.5, about=then.format("half")),
        ),
        match="flops",
    )
