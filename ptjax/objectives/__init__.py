from ptjax.objectives.base import Objective, StepContext
from ptjax.objectives.causal import CausalLM
from ptjax.objectives.mlm import MLM

__all__ = ["CausalLM", "MLM", "Objective", "StepContext"]
