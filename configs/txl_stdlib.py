import chz

from ptjax.models import TransformerXL
from ptjax.train import Experiment

from . import causal_stdlib


def get_config(steps: int = 1500, corpus: str = "data/stdlib", memory: int = 128) -> Experiment:
    base = causal_stdlib.get_config(steps, corpus)
    return chz.replace(
        base,
        model=TransformerXL.preset("tiny", layers=4, memory=memory, std=0.05, dropout=0.0, attention_dropout=0.0),
        data=chz.replace(base.data, order="contiguous"),
    )
