"""Training that goes on from weights that are there: of a run, or of a published model that `experiments.convert` made
one. The same body and tokenizer; the objective is the one that the weights had, or another: `objective=MLM`.

    --config=configs/continued.py:weights=runs/minilm,glob='books/*.txt'

prepares these texts with the tokenizer of the weights; without a glob the run reads what the weights were trained on.
Rate, warm-up and Adam's settings are those with which Gururangan et al., 2020, go on with RoBERTa on the text of a
task; batches are smaller.
"""

import chz

from ptjax.checkpoint import read_config
from ptjax.config import from_json
from ptjax.data.prepare import Corpus
from ptjax.data.sources import TextFiles
from ptjax.data.tokenizers import Imported
from ptjax.optim import AdamW, Linear
from ptjax.train import Evaluation, Experiment


def get_config(
    weights: str, glob: str = "", corpus: str = "data/continued", length: int = 128, steps: int = 1000
) -> Experiment:
    there = from_json(read_config(weights), Experiment)
    data = chz.replace(there.data, length=min(length, there.model.max_length), batch_size=32)
    if glob:
        own = there.data.corpus  # its tokenizer marks documents on the side that the weights know
        new = Corpus(path=corpus, source=TextFiles(glob=glob), tokenizer=Imported(path=own.path), boundary=own.boundary)
        data = chz.replace(data, corpus=new)
    return Experiment(
        model=there.model,
        objective=there.objective,
        data=data,
        init_from=weights,
        optimizer=AdamW(peak_lr=1e-4, b2=0.98, eps=1e-6, weight_decay=0.01, clip=1.0, schedule=Linear(warmup=0.06)),
        steps=steps,
        evaluation=Evaluation(every=max(steps // 5, 1)),
    )
