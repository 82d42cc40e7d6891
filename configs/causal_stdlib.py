"""A small GPT learns to continue Python code, on the Python that runs it: the laptop recipe, no data needed."""

from ptjax.data.pipeline import Data
from ptjax.data.prepare import Corpus
from ptjax.data.sources import Stdlib
from ptjax.data.tokenizers import SentencePiece
from ptjax.models import GPT
from ptjax.objectives import CausalLM
from ptjax.optim import Linear, Muon
from ptjax.train import Evaluation, Experiment


def get_config(steps: int = 1500, corpus: str = "data/stdlib") -> Experiment:
    return Experiment(
        # Twice the length: room for objectives that put a source and its target in one row.
        model=GPT.preset("tiny", layers=4, max_length=256, std=0.05, dropout=0.0, attention_dropout=0.0),
        objective=CausalLM(),
        data=Data(
            corpus=Corpus(path=corpus, source=Stdlib(), tokenizer=SentencePiece(vocab_size=4096)),
            length=128,
            batch_size=32,
        ),
        optimizer=Muon(peak_lr=5e-3, weight_decay=0.1, schedule=Linear(warmup=0.01)),
        steps=steps,
        evaluation=Evaluation(every=max(steps // 5, 1)),
    )
