"""Llama 2's recipe, and TinyLlama's after it: sizes as arguments, your own prepared corpus.

Touvron et al., 2023 (Llama 2), section 2.2: four million tokens a step for two trillion, AdamW (0.9, 0.95) with epsilon
1e-5, 2,000 steps of warm-up, cosine decay to a tenth, weight decay 0.1, clip 1; the rate by size.
Zhang et al., 2024 (TinyLlama): two million tokens a step for three trillion, by the same optimizer.
On accelerators: model.dtype=bfloat16, model.remat=dots, and mesh.fsdp=8 or more; mesh.tensor for the large sizes.
"""

from ptjax.config import UserError
from ptjax.data.pipeline import Data
from ptjax.data.prepare import Corpus
from ptjax.models import Llama
from ptjax.objectives import CausalLM
from ptjax.optim import AdamW, Cosine
from ptjax.train import Checkpointing, Evaluation, Experiment

# Size -> peak rate, Adam's epsilon, tokens of a row, steps of 1024 rows.
RECIPES = {
    "tinyllama-1.1B": (4e-4, 1e-8, 2048, 1_430_000),
    "llama2-7B": (3e-4, 1e-5, 4096, 480_000),
    "llama2-13B": (3e-4, 1e-5, 4096, 480_000),
    "llama2-70B": (1.5e-4, 1e-5, 4096, 480_000),
}


def get_config(size: str = "llama2-7B", corpus: str = "data/corpus") -> Experiment:
    if size not in RECIPES:
        raise UserError(f"size={size!r}: choose one of {', '.join(RECIPES)}")
    peak_lr, eps, length, steps = RECIPES[size]
    return Experiment(
        model=Llama.preset(size),
        objective=CausalLM(),
        data=Data(corpus=Corpus(path=corpus), length=length, batch_size=1024),
        accumulation=8,
        optimizer=AdamW(
            peak_lr=peak_lr,
            b1=0.9,
            b2=0.95,
            eps=eps,
            weight_decay=0.1,
            clip=1.0,
            schedule=Cosine(warmup=2000, final=0.1),
        ),
        steps=steps,
        checkpoint=Checkpointing(every=1000, minutes=30.0),
        evaluation=Evaluation(every=1000, batches=100),
    )
