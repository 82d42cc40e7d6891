"""The objective swapped by composition: another experiment, changed in one field.

This is `objective=CausalLM objective.z_loss=1e-4` of the command line as a file: the same body, data order, initial
body parameters, optimizer and budget as mlm_stdlib, and another question.
"""

import chz

from ptjax.objectives import CausalLM
from ptjax.train import Experiment

from . import mlm_stdlib


def get_config() -> Experiment:
    return chz.replace(mlm_stdlib.get_config(), objective=CausalLM(z_loss=1e-4))
