"""BLiMP (Warstadt et al., 2020): which sentence of two is grammatical, by the likelihood of a model as it is. `data` is
a folder with a file a paradigm, as published: {"sentence_good": ..., "sentence_bad": ..., "UID": ...} a line."""

from ptjax.data.examples import JsonExamples
from ptjax.leaderboard import Suite
from ptjax.tasks import MinimalPairs


def get_config(data: str) -> Suite:
    pairs = JsonExamples(test=f"{data}/*.jsonl")
    return Suite(name="blimp", tasks=(MinimalPairs(name="blimp", examples=pairs, too_long="tie"),))
