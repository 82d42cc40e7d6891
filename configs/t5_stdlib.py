"""A small T5 learns to restore spans of Python code, on the Python that runs it: an encoder-decoder, no data needed.

The other laptop recipes' optimizer and budget, not tuned for this objective; objective=UL2 mixes several denoisers.
"""

from ptjax.data.pipeline import Data
from ptjax.data.prepare import Corpus
from ptjax.data.sources import Stdlib
from ptjax.data.tokenizers import SentencePiece
from ptjax.models import T5
from ptjax.objectives import SpanCorruption
from ptjax.optim import Linear, Muon
from ptjax.train import Evaluation, Experiment


def get_config(steps: int = 1500, corpus: str = "data/stdlib") -> Experiment:
    return Experiment(
        model=T5.preset("tiny", version="1.1"),
        objective=SpanCorruption(),
        data=Data(
            corpus=Corpus(path=corpus, source=Stdlib(), tokenizer=SentencePiece(vocab_size=4096)),
            length=128,
            batch_size=32,
        ),
        optimizer=Muon(peak_lr=5e-3, weight_decay=0.1, schedule=Linear(warmup=0.01)),
        steps=steps,
        evaluation=Evaluation(every=max(steps // 5, 1)),
    )
