"""BERT's recipe with dynamic masking: sizes as arguments, your own prepared corpus.

Devlin et al., 2019: batches of 256 x 512 tokens, Adam with rate 1e-4, 10,000 steps of warm-up, linear decay, weight
decay 0.01, dropout 0.1, a million steps. Masks are drawn anew at every step and next-sentence prediction is left out,
as in RoBERTa (Liu et al., 2019). On accelerators: model.dtype=bfloat16, and mesh.fsdp=8 for the large sizes.
"""

from ptjax.data.pipeline import Data
from ptjax.data.prepare import Corpus
from ptjax.models import BERT
from ptjax.objectives import MLM
from ptjax.optim import AdamW, Linear
from ptjax.train import Checkpointing, Evaluation, Experiment


def get_config(size: str = "base", corpus: str = "data/corpus", length: int = 512) -> Experiment:
    return Experiment(
        model=BERT.preset(size),
        objective=MLM(rate=0.15),
        data=Data(corpus=Corpus(path=corpus), length=length, batch_size=256),
        optimizer=AdamW(
            peak_lr=1e-4, b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.01, clip=1.0, schedule=Linear(warmup=10_000)
        ),
        steps=1_000_000,
        checkpoint=Checkpointing(every=10_000, minutes=30.0),
        evaluation=Evaluation(every=10_000, batches=200),
    )
