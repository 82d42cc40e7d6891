"""How likely a model holds a text: one interface for all that a checkpoint may have learned."""

from ptjax.likelihood.base import Likelihood, Question, Text
from ptjax.likelihood.causal import Causal
from ptjax.likelihood.default import likelihood_of, part_of
from ptjax.likelihood.diffusion import DiffusionBound
from ptjax.likelihood.permutation import Permutation
from ptjax.likelihood.pseudo import PseudoLikelihood
from ptjax.likelihood.scorer import Scorer

__all__ = [
    "Causal",
    "DiffusionBound",
    "Likelihood",
    "Permutation",
    "PseudoLikelihood",
    "Question",
    "Scorer",
    "Text",
    "likelihood_of",
    "part_of",
]
