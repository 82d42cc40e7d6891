"""A small ModernBERT on the Python that runs it, in two minutes on a laptop: rotary positions leave the plateau of
masked language modelling sooner than learned ones, with rows of 64 tokens too. After 1.2 million tokens, one run
each, nats a masked token on the validation split, with 5.64 for a model that only knows how frequent tokens are:
ModernBERT 3.88, a Llama of the same width and layers 4.35.

The same file trains a decoder: objective=CausalLM.
"""

from ptjax.data.pipeline import Data
from ptjax.data.prepare import Corpus
from ptjax.data.sources import Stdlib
from ptjax.data.tokenizers import SentencePiece
from ptjax.models import ModernBERT
from ptjax.objectives import MLM
from ptjax.optim import Linear, Muon
from ptjax.train import Evaluation, Experiment


def get_config(steps: int = 1000, corpus: str = "data/stdlib") -> Experiment:
    return Experiment(
        model=ModernBERT(layers=4, width=128, heads=2, hidden=192, max_length=256, std=0.05),
        objective=MLM(rate=0.15),
        data=Data(
            corpus=Corpus(path=corpus, source=Stdlib(), tokenizer=SentencePiece(vocab_size=4096)),
            length=64,
            batch_size=32,
        ),
        optimizer=Muon(peak_lr=5e-3, weight_decay=0.1, schedule=Linear(warmup=0.01)),
        steps=steps,
        evaluation=Evaluation(every=max(steps // 5, 1), batches=50),
    )
