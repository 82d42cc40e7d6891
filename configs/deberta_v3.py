"""DeBERTaV3's recipe: replaced token detection with disentangled attention, your own prepared corpus.

He et al., 2023, section 4.1, and the authors' configs: xsmall, small, base or large, a generator as wide and half as
deep, all of the hidden 15 % seen as masks, batches of 8192 x 512 tokens, Adam with betas 0.9 and 0.98 and epsilon 1e-6,
rate 5e-4 (large: 3e-4), 10,000 steps of warm-up, linear decay to step 500,000, weight decay 0.01, dropout 0.1.
Departures: generator and discriminator share their embedding plainly, as in ELECTRA, where theirs keep the
discriminator's gradient from the generator's table; the head that detects is ELECTRA's; documents that share a row do
not see each other. On accelerators: model.dtype=bfloat16, model.remat=full.

    python -m experiments.pretrain --config=configs/deberta_v3.py:size=small --workdir=runs/deberta
"""

from ptjax.data.pipeline import Data
from ptjax.data.prepare import Corpus
from ptjax.models import DeBERTa
from ptjax.objectives import RTD
from ptjax.optim import AdamW, Linear
from ptjax.train import Checkpointing, Evaluation, Experiment


def get_config(size: str = "base", corpus: str = "data/corpus", length: int = 512) -> Experiment:
    return Experiment(
        model=DeBERTa.preset(size),
        objective=RTD(rate=0.15, mask_share=1.0, generator=1.0, depth=0.5, coefficient=50.0),
        data=Data(corpus=Corpus(path=corpus), length=length, batch_size=8192),
        accumulation=64,
        optimizer=AdamW(
            peak_lr=3e-4 if size == "large" else 5e-4,
            b1=0.9,
            b2=0.98,
            eps=1e-6,
            weight_decay=0.01,
            clip=1.0,
            schedule=Linear(warmup=10_000),
        ),
        steps=500_000,
        checkpoint=Checkpointing(every=10_000, minutes=30.0),
        evaluation=Evaluation(every=10_000, batches=10),
    )
