"""ELECTRA-small's recipe: replaced token detection, your own prepared corpus.

Clark et al., 2020, table 6: 12 layers of width 256, 4 heads, embeddings of width 128, which is 14 million parameters; a
generator a quarter as large; batches of 128 x 128 tokens, Adam with rate 5e-4, 10,000 steps of warm-up, linear decay,
weight decay 0.01, a million steps. Departure: documents that share a row do not see each other.
"""

from ptjax.data.pipeline import Data
from ptjax.data.prepare import Corpus
from ptjax.models import ELECTRA
from ptjax.objectives import RTD
from ptjax.optim import AdamW, Linear
from ptjax.train import Checkpointing, Evaluation, Experiment


def get_config(corpus: str = "data/corpus", length: int = 128) -> Experiment:
    return Experiment(
        model=ELECTRA.preset("small"),
        objective=RTD(rate=0.15, generator=0.25, coefficient=50.0),
        data=Data(corpus=Corpus(path=corpus), length=length, batch_size=128),
        optimizer=AdamW(
            peak_lr=5e-4, b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.01, clip=1.0, schedule=Linear(warmup=10_000)
        ),
        steps=1_000_000,
        checkpoint=Checkpointing(every=10_000, minutes=30.0),
        evaluation=Evaluation(every=10_000, batches=200),
    )
