"""What does a checkpoint cost a run? The stall that the loop sees, what writing takes from the steps, and a restore.

    python -m benchmarks.checkpoint [--sizes mini base] [--saves=4] [--every=100]

Through the real loop: `train` saves BERT with Adam's moments every few steps; its own clock, in metrics.jsonl, says how
long it stood still for a save, and how much longer than others the steps took under which files were written. Both are
shown as parts of `--every` steps of the size that is trained here, which is small. Goal: a stall below 1 %.

The floor of a stall is one copy of the state, as where a device has a memory of its own. On CPUs it may be less: files
are written from the state's own buffers, which jax then does not give to the next step. The floor of a save in all is
writing as many bytes to the disk at once; that of a restore, reading them from memory and hashing them on all cores.
"""

import argparse
import concurrent.futures
import hashlib
import os
import statistics
import tempfile
from pathlib import Path

import jax

from benchmarks.machine import copy_speed, cores, heading, seconds, spread, table
from experiments import cli
from ptjax.checkpoint import Checkpoints
from ptjax.data.pipeline import Data
from ptjax.data.prepare import Corpus, prepare
from ptjax.data.sources import Stdlib
from ptjax.data.tokenizers import SentencePiece
from ptjax.logging import Logging, read_metrics
from ptjax.models import BERT
from ptjax.objectives import MLM
from ptjax.train import Checkpointing, Evaluation, Experiment, Run, train

LENGTH, VOCABULARY, CHUNK = 128, 30_592, 64 << 20
ROWS = {"tiny": 16, "mini": 16, "small": 16, "medium": 16, "base": 4, "large": 2}
GAP = {"base": 12, "large": 12}  # steps between saves: the files are written in fewer


def experiment(corpus: Corpus, size: str, saves: int) -> Experiment:
    gap = GAP.get(size, 30)
    return Experiment(
        model=BERT.preset(size, max_length=LENGTH, vocab_multiple=VOCABULARY),
        objective=MLM(),
        data=Data(corpus=corpus, length=LENGTH, batch_size=ROWS[size]),
        steps=gap * (saves + 1) - 1,  # a gap before each save and after the last
        checkpoint=Checkpointing(every=gap, minutes=None, keep=1, best=None),
        evaluation=Evaluation(batches=1),
        logging=Logging(every=1, progress=False),
    )


def write_speed(folder: Path, size: int) -> float:
    """Bytes a second to the disk itself."""
    path, block = folder / "floor", os.urandom(min(size, CHUNK))

    def write() -> None:
        with open(path, "wb") as file:
            for _ in range(size // len(block)):
                file.write(block)
            os.fsync(file.fileno())

    return size // len(block) * len(block) / seconds(write)


def read_and_hash_speed(folder: Path) -> float:
    """Bytes a second of the file that `write_speed` wrote, on all cores."""
    path = folder / "floor"

    def hashed(start: int) -> None:
        with open(path, "rb") as file:
            file.seek(start)
            hashlib.sha256(file.read(CHUNK))

    size = path.stat().st_size
    with concurrent.futures.ThreadPoolExecutor(cores()) as pool:
        return size / seconds(lambda: list(pool.map(hashed, range(0, size, CHUNK))))


def measure(corpus: Corpus, size: str, saves: int, every: int, folder: Path) -> list[list[object]]:
    """Rows of the table: what, seconds, floor, part of `every` steps."""
    e = experiment(corpus, size, saves)
    run = Run.open(e)
    state, _ = train(run, folder)
    size_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    lines = {line["step"]: line for line in read_metrics(folder) if "seconds/step" in line}
    at = [step for step in range(e.checkpoint.every, e.steps - 1, e.checkpoint.every)]
    stalls = [lines[step + 1]["seconds/checkpoint"] for step in at]  # a save counts to the step after it
    busy = {step + k for step in at for k in range(1, e.checkpoint.every // 2 + 1)}
    step_time = statistics.median(line["seconds/step"] for step, line in lines.items() if step not in busy and step > 3)
    losses = [
        sum(lines[step + k]["seconds/step"] - step_time for k in range(1, e.checkpoint.every // 2 + 1)) for step in at
    ]
    del state
    checkpoints = Checkpoints(folder / "checkpoints")
    restores = [seconds(lambda: jax.block_until_ready(checkpoints.restore(run.abstract))) for _ in range(3)]
    checkpoints.close()
    writing = write_speed(folder, size_bytes)
    name = f"BERT-{size}, {size_bytes / 1e6:,.0f} MB"
    part = lambda values: f"{100 * statistics.median(values) / (every * step_time):.2f} %"
    return [
        [name, "step", step_time, None, None],
        [name, "stall of a save", spread(stalls), size_bytes / copy_speed(), part(stalls)],
        [name, "stall, and steps slower beside it", spread(losses), size_bytes / writing, part(losses)],
        [name, "restore", spread(restores), size_bytes / read_and_hash_speed(folder), None],
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="*", default=["mini", "base"], choices=ROWS)
    parser.add_argument("--saves", type=int, default=4)
    parser.add_argument("--every", type=int, default=100)
    options = parser.parse_args()
    cli.set_up_jax()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        source, tokenizer = Stdlib(), SentencePiece(model="bpe", vocab_size=4096)
        corpus = Corpus(path=f"{name}/corpus", source=source, tokenizer=tokenizer)
        prepare(corpus)
        for size in options.sizes:
            rows += measure(corpus, size, options.saves, options.every, Path(name) / size)
    print(f"{heading('jax', 'orbax-checkpoint', 'tensorstore')}; {options.saves} saves\n")
    print(table(["state", "what", "seconds", "floor", f"of {options.every} steps"], rows))


if __name__ == "__main__":
    main()
