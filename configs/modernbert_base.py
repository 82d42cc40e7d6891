"""ModernBERT-base's recipe, in its three phases: masked language modelling, your own prepared corpus.

Warner et al., 2024, section 2.2 and the table of settings, and the configuration that they released: 30 % of the tokens
are masked; Adam with betas 0.9 and 0.98 and epsilon 1e-6; a weight decay of 1e-5 that is not multiplied by the rate, as
ours is, hence 1e-5 / rate here; dropout of 0.1 behind attention and nowhere else.

    phase=pretrain  1.719 trillion tokens in batches of 4608 x 1024, 3 billion of them warm-up, then a constant 8e-4;
                    all rotary bases 10,000
    phase=extend    250 billion in batches of 576 x 8192 at 3e-4; the base of global layers 160,000
    phase=decay     50 billion more, while the rate falls to a thousandth by 1 - sqrt

    python -m experiments.pretrain --config=configs/modernbert_base.py --workdir=runs/pretrain
    python -m experiments.pretrain --config=configs/modernbert_base.py:phase=extend --workdir=runs/extend \\
        init_from=runs/pretrain

Departures: gradients are clipped to a norm of 1, where StableAdamW clips updates; the batch is as large at the start,
where theirs grows over 50 billion tokens; the corpus is the same in every phase. On accelerators: model.dtype=bfloat16,
model.remat=full.
"""

from ptjax.config import UserError
from ptjax.data.pipeline import Data
from ptjax.data.prepare import Corpus
from ptjax.models import ModernBERT
from ptjax.objectives import MLM
from ptjax.optim import WSD, AdamW, Constant
from ptjax.train import Checkpointing, Evaluation, Experiment

TOKENS_PER_STEP = 4608 * 1024


def get_config(phase: str = "pretrain", corpus: str = "data/corpus") -> Experiment:
    if phase == "pretrain":
        steps = int(1.719e12 / TOKENS_PER_STEP)
        length, rate, theta, schedule = 1024, 8e-4, 10_000.0, Constant(warmup=int(3e9 / TOKENS_PER_STEP))
    elif phase == "extend":
        steps = int(250e9 / TOKENS_PER_STEP)
        length, rate, theta, schedule = 8192, 3e-4, 160_000.0, Constant(warmup=0)
    elif phase == "decay":
        steps = int(50e9 / TOKENS_PER_STEP)
        schedule = WSD(warmup=0, cooldown=steps, shape="1-sqrt", final=0.001)
        length, rate, theta = 8192, 3e-4, 160_000.0
    else:
        raise UserError(f"phase={phase!r}: it can be pretrain, extend or decay")
    return Experiment(
        model=ModernBERT.preset("base", global_theta=theta, dropout=0.1),
        objective=MLM(rate=0.3),
        data=Data(corpus=Corpus(path=corpus), length=length, batch_size=TOKENS_PER_STEP // length),
        accumulation=12,
        optimizer=AdamW(peak_lr=rate, b1=0.9, b2=0.98, eps=1e-6, weight_decay=1e-5 / rate, clip=1.0, schedule=schedule),
        steps=steps,
        checkpoint=Checkpointing(every=4000, minutes=30.0),
        evaluation=Evaluation(every=4000, batches=10),
    )
