"""A small BERT learns masked language modelling on the Python that runs it: the laptop recipe, no data needed.

Chosen by short runs, one each, to leave the plateau on which a masked model knows only how frequent tokens are. With
Muon, rows of 32 tokens left it within 1 million tokens; rows of 64 had not after 1.5 million, rows of 128 not after 3
million: before attention has learned where to look it averages a row, and a neighbour is a larger part of a short one.
AdamW at 2e-3 had not left it with rows of 32 after 0.8 million. A constant rate with a decay of 0.01 stayed for 4.8.
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
        # Twice the length: room for objectives that put a source and its target in one row.
        model=BERT.preset("tiny", layers=4, max_length=2 * length, std=0.05, dropout=0.0, attention_dropout=0.0),
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
