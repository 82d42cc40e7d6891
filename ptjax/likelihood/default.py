"""Which likelihood a checkpoint has, by what it has learned."""

from ptjax.config import UserError
from ptjax.likelihood.base import Likelihood
from ptjax.likelihood.causal import Causal
from ptjax.likelihood.diffusion import DiffusionBound
from ptjax.likelihood.permutation import Permutation
from ptjax.likelihood.pseudo import PseudoLikelihood
from ptjax.objectives import Objective, Schedule


def likelihood_of(objective: Objective) -> Likelihood:
    """The usual one: of a mixture's first part that has one; after a schedule, of its last phase.

    Raises UserError, which says what can be scored, where there is none.
    """
    for part in _parts(objective):
        for kind in (Permutation(), DiffusionBound(), PseudoLikelihood(), Causal()):
            if kind.accepts(part):
                return kind
    raise UserError(
        f"a model that has learned {_words(objective)} gives a text no likelihood. Those have one that have learned "
        "CausalLM, PrefixLM, MLM, NSP, SOP, Hybrid, PLM, MaskedDiffusion, SpanCorruption or UL2: alone, in a Mixed, or "
        "last in a Schedule"
    )


def part_of(objective: Objective, likelihood: Likelihood) -> Objective:
    """Who answers the questions of this likelihood. Raises UserError where none can."""
    for part in _parts(objective):
        if likelihood.accepts(part):
            return part
    usual = type(likelihood_of(objective)).__name__
    raise UserError(
        f"{type(likelihood).__name__} cannot be asked of a model that has learned {_words(objective)}: leave "
        f"likelihood=None for the usual one, {usual}"
    )


def _parts(objective: Objective) -> tuple[Objective, ...]:
    return (objective.last if isinstance(objective, Schedule) else objective).parts()


def _words(objective: Objective) -> str:
    return " and ".join(dict.fromkeys(type(part).__name__ for part in _parts(objective)))
