"""GPT-2's model with GPT-3's recipe, as usually reproduced: sizes as arguments, your own prepared corpus.

Brown et al., 2020, table 2.1 and appendix B: half a million tokens a step, Adam (0.9, 0.95), clip 1, weight decay 0.1,
cosine decay to a tenth; the rate by size. No dropout, since no text is seen often.
On accelerators: model.dtype=bfloat16, model.remat=dots, and mesh.fsdp=8 for the large sizes.
"""

from ptjax.config import UserError
from ptjax.data.pipeline import Data
from ptjax.data.prepare import Corpus
from ptjax.models import GPT
from ptjax.objectives import CausalLM
from ptjax.optim import AdamW, Cosine
from ptjax.train import Checkpointing, Evaluation, Experiment

PEAK_LR = {"124M": 6e-4, "355M": 3e-4, "774M": 2.5e-4, "1.5B": 2e-4}


def get_config(size: str = "124M", corpus: str = "data/corpus", length: int = 1024) -> Experiment:
    if size not in PEAK_LR:
        raise UserError(f"size={size!r}: choose one of {', '.join(PEAK_LR)}")
    return Experiment(
        model=GPT.preset(size, dropout=0.0, attention_dropout=0.0),
        objective=CausalLM(),
        data=Data(corpus=Corpus(path=corpus), length=length, batch_size=512),
        accumulation=8,
        optimizer=AdamW(
            peak_lr=PEAK_LR[size], b1=0.9, b2=0.95, weight_decay=0.1, clip=1.0, schedule=Cosine(warmup=700, final=0.1)
        ),
        steps=19_000,
        checkpoint=Checkpointing(every=1000, minutes=30.0),
        evaluation=Evaluation(every=1000, batches=100),
    )
