from ptjax.objectives.base import Objective, StepContext
from ptjax.objectives.causal import CausalLM
from ptjax.objectives.diffusion import MaskedDiffusion
from ptjax.objectives.hybrid import Hybrid
from ptjax.objectives.mixed import Mixed, Part
from ptjax.objectives.mlm import MLM
from ptjax.objectives.nsp import NSP, SOP
from ptjax.objectives.plm import PLM
from ptjax.objectives.prefix import PrefixLM
from ptjax.objectives.rtd import RTD
from ptjax.objectives.schedule import Phase, Schedule
from ptjax.objectives.spans import UL2, SpanCorruption

__all__ = [
    "CausalLM",
    "Hybrid",
    "MLM",
    "MaskedDiffusion",
    "Mixed",
    "NSP",
    "Objective",
    "PLM",
    "Part",
    "Phase",
    "PrefixLM",
    "RTD",
    "SOP",
    "Schedule",
    "SpanCorruption",
    "StepContext",
    "UL2",
]
