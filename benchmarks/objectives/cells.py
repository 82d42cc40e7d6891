"""What the comparisons of this folder share: one small body, one recipe, and a budget in minutes that becomes steps.

A cell is a run like any other, in a workdir of its own. Its number of steps is fixed before the first one, since the
learning rate depends on it: so many as fit in the minutes at the speed of the compiled step, measured for some seconds.
It is kept in the workdir's config.json, so that the same command goes on with the same budget.
"""

import argparse
import itertools
import time
from pathlib import Path

import jax

import ptjax.models
from experiments import cli
from experiments.prepare import ensure_prepared
from ptjax.config import from_json
from ptjax.data.pipeline import Data
from ptjax.data.prepare import Corpus
from ptjax.data.sources import TextFiles
from ptjax.data.tokenizers import SentencePiece
from ptjax.logging import FILE, read_metrics
from ptjax.models.base import TextModelConfig
from ptjax.objectives import Objective
from ptjax.optim import Linear, Muon
from ptjax.train import Checkpointing, Evaluation, Experiment, Run, train

TOKENS_A_STEP = 2048
WARM_STEPS, MEASURED_SECONDS = 5, 10.0


def arguments(doc: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    text = parser.add_mutually_exclusive_group(required=True)
    text.add_argument("--corpus", help="a prepared corpus")
    text.add_argument("--text", help="a folder of text files, or of folders train and validation, to prepare in --out")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and of the page")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument(
        "--minutes", type=float, default=10.0, help="of training a run, without compiling and validating"
    )
    budget.add_argument("--steps", type=int, help="so many steps a run instead")
    parser.add_argument("--length", type=int, default=32, help="tokens a row")
    parser.add_argument("--validation-batches", type=int, default=100, help="of 2,048 tokens")
    return parser


def start(args: argparse.Namespace) -> Corpus:
    """Sets the process up, and returns the corpus, prepared."""
    cli.set_up_jax()
    if args.corpus:
        return Corpus(path=args.corpus, source=None)
    folder, validation = Path(args.text), None
    if (folder / "train").is_dir():
        folder, validation = folder / "train", TextFiles(glob=str(folder / "validation" / "*.txt"))
    corpus = Corpus(
        path=str(args.out / "corpus"),
        source=TextFiles(glob=str(folder / "*.txt")),
        validation=validation,
        tokenizer=SentencePiece(vocab_size=4096),
    )
    ensure_prepared(corpus)
    return corpus


def body(name: str, length: int, **overrides) -> TextModelConfig:
    """4 layers of width 128, in the class of ptjax.models of that name."""
    shape = dict(layers=4, dropout=0.0, attention_dropout=0.0)
    if name != "T5":  # whose initial deviations follow from its sizes
        shape["std"] = 0.05
    if name in ("BERT", "GPT"):
        shape["max_length"] = length
    return getattr(ptjax.models, name).preset("tiny", **shape | overrides)


def experiment(
    args: argparse.Namespace,
    corpus: Corpus,
    model: TextModelConfig,
    objective: Objective,
    steps: int,
    *,
    seed: int = 0,
    order: str = "shuffled",
) -> Experiment:
    """The recipe of configs/mlm_stdlib.py: with rows this short masked objectives learn within a laptop's budget."""
    return Experiment(
        model=model,
        objective=objective,
        data=Data(corpus=corpus, length=args.length, batch_size=TOKENS_A_STEP // args.length, order=order),
        optimizer=Muon(peak_lr=5e-3, weight_decay=0.1, schedule=Linear(warmup=0.01)),
        steps=steps,
        seed=seed,
        evaluation=Evaluation(every=max(steps // 20, 1), batches=args.validation_batches),
        checkpoint=Checkpointing(best=None),
    )


def kept_steps(workdir: Path) -> int | None:
    """The budget that a run was begun with."""
    config = workdir / "config.json"
    return from_json(config.read_text(), Experiment).steps if config.is_file() else None


def budget(args: argparse.Namespace, pilot: Experiment) -> int:
    """Steps a run: as asked for, or as many as take the minutes at the speed of the pilot."""
    if args.steps:
        return args.steps
    run = Run.open(pilot)
    state, step = run.init(), run.train_step(0)
    begin, count = 0.0, 0
    for count, host in enumerate(run.pipeline.iterate(0, 1 << 30, run.shard)):
        if count == WARM_STEPS:
            begin = time.perf_counter()
        state, metrics = step(state, step.place(host))
        jax.block_until_ready(metrics)
        if count > WARM_STEPS and time.perf_counter() - begin > MEASURED_SECONDS:
            break
    seconds = (time.perf_counter() - begin) / (count - WARM_STEPS + 1)
    print(f"{1 / seconds:.2f} steps/s, {TOKENS_A_STEP / seconds:,.0f} tokens/s", flush=True)
    return max(1, int(60 * args.minutes / seconds))


def is_done(workdir: Path, steps: int) -> bool:
    return (workdir / FILE).is_file() and any(r["step"] == steps for r in read_metrics(workdir, "validation"))


def fit(experiment: Experiment, workdir: Path) -> None:
    """Trains what is left of a cell."""
    if is_done(workdir, experiment.steps):
        print(f"{workdir}: {experiment.steps} steps are done", flush=True)
        return
    print(f"{workdir}: {experiment.steps} steps", flush=True)
    train(Run.open(experiment), workdir)
    jax.clear_caches()


def minutes(workdir: Path) -> float:
    """Of training, by the log: validation, checkpoints and compiling do not count."""
    records = read_metrics(workdir)
    steps = [0, *(r["step"] for r in records)]
    counts = [after - before for before, after in itertools.pairwise(steps)]
    return sum(n * (r.get("seconds/step") or 0) for n, r in zip(counts, records)) / 60
