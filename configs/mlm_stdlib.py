"""A small BERT learns masked language modelling on the Python that runs it: the laptop recipe, no data needed.

Chosen by measurement, to leave the plateau on which a masked model knows only how frequent tokens are. Within a million
tokens rows of 32 did, and rows of 64 and 128 did not: before attention has learned where to look it averages a row, and
a neighbour is a larger part of a short one. Muon left the plateau where AdamW stayed on it, and kernels that start at
0.05 (0.02 is for widths like BERT-base's) helped.
"""

from ptjax.data.pipeline import Data
from ptjax.data.prepare import Corpus
from ptjax.data.sources import Stdlib
from ptjax.data.tokenizers import SentencePiece
from ptjax.models import BERT
from ptjax.objectives import MLM
from ptjax.optim import Linear, Muon
from ptjax.train import Evaluation, Experiment


def get_config(length: int = 32, steps: int = 3000, corpus: str = "data/stdlib") -> Experiment:
    return Experiment(
        model=BERT.preset("tiny", layers=4, max_length=length, std=0.05, dropout=0.0, attention_dropout=0.0),
        objective=MLM(rate=0.15),
        data=Data(
            corpus=Corpus(path=corpus, source=Stdlib(), tokenizer=SentencePiece(vocab_size=4096)),
            length=length,
            batch_size=2048 // length,
        ),
        optimizer=Muon(peak_lr=5e-3, weight_decay=0.1, schedule=Linear(warmup=0.01)),
        steps=steps,
        evaluation=Evaluation(every=max(steps // 6, 1)),
    )
