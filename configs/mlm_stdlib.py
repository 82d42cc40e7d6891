"""A small BERT learns masked language modelling on the Python that runs it: the laptop recipe, no data needed."""

from ptjax.data.pipeline import Data
from ptjax.data.prepare import Corpus
from ptjax.data.sources import Stdlib
from ptjax.data.tokenizers import SentencePiece
from ptjax.models import BERT
from ptjax.objectives import MLM
from ptjax.optim import WSD, AdamW
from ptjax.train import Evaluation, Experiment


def get_config(size: str = "mini", steps: int = 1500, corpus: str = "data/stdlib") -> Experiment:
    return Experiment(
        model=BERT.preset(size, max_length=128, dropout=0.0, attention_dropout=0.0),
        objective=MLM(rate=0.15),
        data=Data(
            corpus=Corpus(path=corpus, source=Stdlib(), tokenizer=SentencePiece(vocab_size=4096)),
            length=128,
            batch_size=32,
        ),
        optimizer=AdamW(peak_lr=1e-3, b2=0.98, weight_decay=0.01, schedule=WSD(warmup=0.1)),
        steps=steps,
        evaluation=Evaluation(every=max(steps // 5, 1)),
    )
