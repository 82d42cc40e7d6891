"""ptjax's side of the comparison (see run.py): records what the other side needs, or trains.

python ours.py {record,train} {bert,gpt} FOLDER STEPS [VALIDATION_BATCHES]
"""

import importlib.metadata
import json
import os
import shutil
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path

import jax
import numpy as np

from ptjax.data.pipeline import Data
from ptjax.data.prepare import Corpus, prepare
from ptjax.data.sources import TextFiles
from ptjax.data.tokenizers import SentencePiece
from ptjax.logging import Logging
from ptjax.models import BERT, GPT
from ptjax.objectives import MLM, CausalLM
from ptjax.optim import AdamW, Linear
from ptjax.train import Checkpointing, Evaluation, Experiment, Run, train

SHARED = Path(os.environ.get("PTJAX_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
SHAPE = dict(layers=4, width=256, heads=4, hidden=1024, max_length=128, dropout=0.0, attention_dropout=0.0)


def experiment(model: str, folder: Path, steps: int, validation_batches: int | None = None) -> Experiment:
    """The experiment, validated at its end, on the whole split unless told otherwise."""
    books = SHARED / "books"
    # Paragraphs are the documents, so that most rows are packed; 8,000 pieces are padded to 8,064 rows.
    corpus = Corpus(
        path=str(folder.parent / "corpus"),
        source=TextFiles(glob=f"{books}/train/*.txt", documents="blank_line"),
        validation=TextFiles(glob=f"{books}/validation/*.txt", documents="blank_line"),
        tokenizer=SentencePiece(vocab_size=8000),
    )
    return Experiment(
        model={"bert": BERT, "gpt": GPT}[model](**SHAPE),
        objective={"bert": MLM, "gpt": CausalLM}[model](),
        data=Data(corpus=corpus, length=128, batch_size=16),
        optimizer=AdamW(peak_lr=1e-3, b2=0.98, eps=1e-6, schedule=Linear(warmup=100)),
        steps=steps,
        evaluation=Evaluation(batches=validation_batches),
        checkpoint=Checkpointing(minutes=None),
        logging=Logging(every=1),
    )


def record(e: Experiment, folder: Path) -> None:
    """The initial weights, every batch as the model sees it, and the numbers of the experiment."""
    prepare(e.data.corpus)
    run = Run.open(e)
    state = run.init()
    leaves = jax.tree_util.tree_leaves_with_path(state.params)
    weights = {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf) for path, leaf in leaves}
    np.savez(folder / "weights.npz", **weights)

    corrupted = jax.jit(lambda step, batch: run.learner.corrupted(state.replace(step=step), batch))
    steps = (corrupted(np.int32(step), batch) for step, batch in enumerate(run.pipeline.iterate(0, e.steps)))
    write(folder / "train", steps, e.steps)
    validation = run.split("validation")
    batches = e.evaluation.batches or validation.steps_per_epoch
    asked = map(jax.jit(run.learner.corrupted_for_validation), validation.iterate(0, batches))
    write(folder / "validation", asked, batches)
    settings = {
        **{name: getattr(e.model, name) for name in ("layers", "width", "heads", "hidden", "max_length")},
        **{name: getattr(e.optimizer, name) for name in ("b1", "b2", "eps", "weight_decay", "clip")},
        "model": type(e.model).__name__,
        "vocab_size": run.pipeline.vocab.size,
        "boundary_id": run.pipeline.vocab.boundary_id,
        "pad_id": run.pipeline.vocab.pad_id,
        "rates": [e.optimizer.peak_lr * float(e.optimizer.factor(step, e.steps)) for step in range(e.steps)],
    }
    (folder / "settings.json").write_text(json.dumps(settings))


def write(folder: Path, batches: Iterable[dict], count: int) -> None:
    """One array for each entry of the batches, stacked along a new first axis."""
    folder.mkdir(exist_ok=True)
    files = {}
    for step, batch in enumerate(batches):
        for name in ("tokens", "original", "positions", "weights"):
            if name in batch:
                value = np.asarray(batch[name])
                if name not in files:
                    path, dtype = folder / f"{name}.npy", np.uint8 if name == "weights" else np.uint16
                    files[name] = np.lib.format.open_memmap(path, "w+", dtype, (count, *value.shape))
                files[name][step] = value


def fit(e: Experiment, folder: Path) -> None:
    """Trains as any run does, and gathers its log."""
    workdir = folder / "workdir"
    shutil.rmtree(workdir, ignore_errors=True)
    train(Run.open(e), workdir)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "train"]
    result = {
        "losses": [line["loss"] for line in steps],
        "validation": next(line["loss"] for line in lines if line["kind"] == "validation"),
        "seconds_per_step": statistics.median(line["seconds/step"] for line in steps if "seconds/step" in line),
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "flax", "optax")},
    }
    (folder / "ours.json").write_text(json.dumps(result))


if __name__ == "__main__":
    what, model, folder, *numbers = sys.argv[1:]
    folder = Path(folder)
    {"record": record, "train": fit}[what](experiment(model, folder, *map(int, numbers)), folder)
