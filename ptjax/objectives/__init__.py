from ptjax.objectives.base import Objective, StepContext
from ptjax.objectives.causal import CausalLM
from ptjax.objectives.diffusion import MaskedDiffusion
from ptjax.objectives.hybrid import Hybrid
from ptjax.objectives.mlm import MLM
from ptjax.objectives.plm import PLM
from ptjax.objectives.prefix import PrefixLM
from ptjax.objectives.nsp import NSP, SOP
from ptjax.objectives.rtd import RTD
from ptjax.objectives.spans import UL2, SpanCorruption

__all__ = [
    "CausalLM",
    "Hybrid",
    "MLM",
    "MaskedDiffusion",
    "NSP",
    "Objective",
    "PLM",
    "PrefixLM",
    "RTD",
    "SOP",
    "SpanCorruption",
    "StepContext",
    "UL2",
]
