"""Fine-tuning on labelled tasks: a grid of runs, their scores, and the best model."""

from ptjax.finetune.config import FineTuned, FineTuning, Recipe
from ptjax.finetune.run import finetune

__all__ = ["FineTuned", "FineTuning", "Recipe", "finetune"]
