"""ptjax's side of the comparison (see run.py): fine-tunes through `Tuner`, and records what the other side needs.

    python ours.py FOLDER MODEL TASK DATA STEPS

Writes batches/STEP.npz as the model reads them, head.npz with the first weights of the head, settings.json and
ours.json with the loss of each step.
"""

import json
import statistics
import sys
import time
from pathlib import Path

from experiments.cli import set_up_jax

set_up_jax()

import jax
import numpy as np

from ptjax.data.examples import ConllExamples, SquadExamples, TableExamples
from ptjax.finetune import FineTuning, Recipe
from ptjax.finetune.grid import Grid
from ptjax.finetune.tuner import BEGUN, Tuner
from ptjax.optim import AdamW, Linear
from ptjax.pretrained import Pretrained
from ptjax.tasks import QuestionAnswering, SequenceClassification, TokenClassification

RATE, SEED, DECAY = 5e-5, 0, 0.01


def task(name: str, data: Path):
    if name == "sequence":
        files = {split: str(data / f"sst2/{file}.tsv") for split, file in (("train", "train"), ("validation", "dev"))}
        return SequenceClassification(name=name, examples=TableExamples(**files), length=64, dropout=0.0)
    if name == "token":
        files = {
            split: str(data / f"wikiann-en/{file}.conll") for split, file in (("train", "train"), ("validation", "dev"))
        }
        return TokenClassification(name=name, examples=ConllExamples(**files), length=128, dropout=0.0)
    files = {split: str(data / f"xquad/{file}.json") for split, file in (("train", "train"), ("validation", "dev"))}
    return QuestionAnswering(name=name, examples=SquadExamples(**files), length=256, stride=64, dropout=0.0)


def main(folder: Path, model: str, name: str, data: Path, steps: int) -> None:
    (folder / "batches").mkdir(parents=True, exist_ok=True)
    optimizer = AdamW(schedule=Linear(warmup=0.1), weight_decay=DECAY)
    recipe = Recipe(batch_size=16, learning_rates=(RATE,), seeds=(SEED,), optimizer=optimizer)
    config = FineTuning(task=task(name, data), init_from=model, dropout=0.0, recipe=recipe)
    start = Pretrained.open(model)
    grid = Grid(config, start, folder, print)
    tuner, train = Tuner(config, grid.task, start, steps), grid.encoded["train"]
    state = tuner.init([RATE], [SEED])
    leaves = jax.tree_util.tree_leaves_with_path({k: v for k, v in state.params.items() if k not in BEGUN})
    head = {"/".join(key.key for key in path): np.asarray(leaf) for path, leaf in leaves}
    np.savez(folder / "head.npz", **head)
    rates, losses, seconds = [], [], []
    for step in range(steps):
        rows = train.train_rows(SEED, step, recipe.batch_size)
        np.savez(folder / f"batches/{step}.npz", **train.batch(rows))
        rates.append(RATE * float(optimizer.factor(step, steps)))
        begin = time.perf_counter()
        state, loss, _ = tuner.train(state, train, [rows])
        losses.append(float(loss))
        seconds.append(time.perf_counter() - begin)
    settings = {"model": model, "task": name, "rates": rates, "weight_decay": DECAY, "clip": optimizer.clip,
                "b1": optimizer.b1, "b2": optimizer.b2, "eps": optimizer.eps}  # fmt: skip
    (folder / "settings.json").write_text(json.dumps(settings))
    versions = {"jax": jax.__version__}
    result = {"losses": losses, "seconds_per_step": statistics.median(seconds), "versions": versions}
    (folder / "ours.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4]), int(sys.argv[5]))
