import chz

from ptjax.models import T5
from ptjax.objectives import SpanCorruption
from ptjax.train import Experiment

from . import causal_stdlib


def get_config(steps: int = 1500, corpus: str = "data/stdlib") -> Experiment:
    base = causal_stdlib.get_config(steps, corpus)
    return chz.replace(base, model=T5.preset("tiny", version="1.1"), objective=SpanCorruption())
