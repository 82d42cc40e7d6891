"""XLNet-large's recipe: permutation language modelling, your own prepared corpus.

Yang et al., 2019, appendix A.4.1: 24 layers of width 1024, batches of 8192 x 512 tokens, one token in six predicted,
Adam with rate 4e-4 and epsilon 1e-6, 40,000 steps of warm-up, linear decay to step 500,000, weight decay 0.01, dropout
0.1; PLM and XLNet say where they differ from the authors' code. On accelerators: model.dtype=bfloat16,
model.remat=full, mesh.fsdp=8.
"""

from ptjax.data.pipeline import Data
from ptjax.data.prepare import Corpus
from ptjax.models import XLNet
from ptjax.objectives import PLM
from ptjax.optim import AdamW, Linear
from ptjax.train import Checkpointing, Evaluation, Experiment


def get_config(size: str = "large", corpus: str = "data/corpus", length: int = 512) -> Experiment:
    return Experiment(
        model=XLNet.preset(size),
        objective=PLM(rate=1 / 6),
        data=Data(corpus=Corpus(path=corpus), length=length, batch_size=8192),
        accumulation=64,
        optimizer=AdamW(
            peak_lr=4e-4, b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.01, clip=1.0, schedule=Linear(warmup=40_000)
        ),
        steps=500_000,
        checkpoint=Checkpointing(every=10_000, minutes=30.0),
        evaluation=Evaluation(every=10_000, batches=10),
    )
