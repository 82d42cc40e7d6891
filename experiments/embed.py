"""Turn texts into vectors with a checkpoint: how alike they are, or a file of them.

python -m experiments.embed --workdir=runs/minilm --text='A cat sits.' --text='There is a kitten.'
python -m experiments.embed --workdir=runs/minilm --text=- --output=vectors.npy < sentences.txt
"""

import json
import sys
from pathlib import Path

import chz
import jax
import numpy as np
from rich.table import Table

from ptjax.checkpoint import disk_errors
from ptjax.config import UserError
from ptjax.embed import Embedder, Pooling
from ptjax.train import Experiment, Run

from . import cli, show

FLAGS = {
    "--text": dict(action="append", metavar="TEXT", help="may be repeated; '-' reads one a line from standard input"),
    "--step": dict(type=int, help="of the checkpoint (default: the last good one)"),
    "--pool": dict(choices=("mean", "cls", "last"), help="of a text's tokens (default: as published, else mean)"),
    "--length": dict(type=int, help="tokens that are read of a text (default: as published, else as many as fit)"),
    "--raw": dict(action="store_true", help="vectors as they are, not of length 1"),
    "--output": dict(type=Path, metavar="FILE", help="X.npy, float32[texts, width], or X.jsonl, a text a line"),
}
SHOWN = 20  # texts in a table


def main(command: cli.Command) -> None:
    flags = command.flags
    texts = [line for text in flags.text or [] for line in (sys.stdin.read().splitlines() if text == "-" else [text])]
    if not texts:
        raise UserError("Say what to embed: --text='...', or --text=- for lines of standard input.")
    if flags.output and flags.output.suffix not in (".npy", ".jsonl"):
        raise UserError(f"--output={flags.output}: the name ends in .npy or .jsonl")
    if flags.output and not flags.output.parent.is_dir():
        raise UserError(f"--output={flags.output}: there is no folder {flags.output.parent}")
    if not flags.output and len(texts) > SHOWN:
        raise UserError(f"{len(texts)} texts are too many for a table: --output=FILE.npy writes their vectors")
    if flags.length is not None and flags.length < 1:
        raise UserError(f"--length={flags.length}: at least 1")
    changes = {"pool": flags.pool, "length": flags.length, "normalise": False if flags.raw else None}
    changes = {name: value for name, value in changes.items() if value is not None}
    pooling = chz.replace(Pooling.of_workdir(command.workdir), **changes)
    vectors = Embedder.of_workdir(Run.open(command.config), command.workdir, flags.step, pooling).embed(texts)
    if jax.process_index():
        return
    if flags.output:
        with disk_errors(flags.output.parent):
            write(flags.output, texts, vectors)
        print(f"{len(texts)} vectors of {vectors.shape[1]} numbers in {flags.output}")
        return
    length = np.linalg.norm(vectors, axis=1)
    cosines = vectors @ vectors.T / np.outer(length, length)
    table = Table(box=None, pad_edge=False, title="cosine similarity", title_justify="left")
    for name in ("", "text", *map(str, range(1, len(texts) + 1))):
        table.add_column(name, justify="right" if name.isdigit() else "left")
    for i, text in enumerate(texts):
        table.add_row(str(i + 1), text if len(text) <= 40 else text[:39] + "…", *(f"{x:.3f}" for x in cosines[i]))
    show.console.print(table, markup=False)


def write(path: Path, texts: list[str], vectors: np.ndarray) -> None:
    if path.suffix == ".npy":
        np.save(path, vectors)
        return
    with open(path, "w", encoding="utf-8") as file:
        for text, vector in zip(texts, vectors):
            file.write(json.dumps({"text": text, "embedding": [float(f"{x:.8g}") for x in vector]}) + "\n")


if __name__ == "__main__":
    cli.run(main, base=Experiment, flags=FLAGS, doc=__doc__)
