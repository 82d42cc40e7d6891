"""Small comparisons on the tiny corpus."""

from ptjax.compare import Arm, Comparison
from tests.small import experiment


def comparison(corpus, **changes) -> Comparison:
    """MLM and CausalLM on one body, two seeds, ten steps, no suite."""
    settings = dict(
        name="tiny",
        question="Which learns more?",
        base=experiment(corpus),
        arms=(Arm(name="mlm"), Arm(name="causal", changes=("objective=CausalLM",))),
        seeds=(0, 1),
    )
    return Comparison(**(settings | changes))


def tailored(base, *arms: Arm, **changes) -> Comparison:
    return Comparison(name="tailored", base=base, arms=arms, **changes)
