import chz

from ptjax.models import Llama
from ptjax.train import Experiment

from . import causal_stdlib


def get_config(steps: int = 1500, corpus: str = "data/stdlib") -> Experiment:
    base = causal_stdlib.get_config(steps, corpus)
    return chz.replace(base, model=Llama.preset("tiny", layers=4, kv_heads=1, std=0.05))
