from ptjax.objectives.base import Objective, StepContext
from ptjax.objectives.causal import CausalLM
from ptjax.objectives.mlm import MLM
from ptjax.objectives.rtd import RTD

__all__ = ["CausalLM", "MLM", "Objective", "RTD", "StepContext"]
