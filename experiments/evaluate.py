"""Evaluate a checkpoint on a split of its corpus: loss, perplexity, accuracy, bits a byte.

python -m experiments.evaluate --workdir=runs/mlm_stdlib
python -m experiments.evaluate --workdir=runs/mlm_stdlib --step=1000 --split=train --batches=50
"""

import json

import jax
from rich.table import Table

from ptjax.config import UserError
from ptjax.train import Experiment, Run

from . import cli, show

FLAGS = {
    "--split": dict(default="validation", choices=("train", "validation"), help="of the prepared corpus"),
    "--step": dict(type=int, help="of the checkpoint (default: the last good one)"),
    "--batches": dict(type=int, help="at most so many (default: the whole split)"),
    "--json": dict(action="store_true", help="print one line of JSON instead of a table"),
}


def main(command: cli.Command) -> None:
    if command.flags.batches is not None and command.flags.batches < 1:
        raise UserError(f"--batches={command.flags.batches}: at least 1")
    run = Run.open(command.config)
    run.split(command.flags.split)  # what would fail late fails now
    params = run.restore_params(command.workdir, command.flags.step)
    scores = run.evaluate(params, command.flags.split, command.flags.batches)
    if jax.process_index():
        return
    if command.flags.json:
        print(json.dumps(scores))
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in scores.items():
        table.add_row(name.replace("_", " "), f"{value:.4f}")
    show.console.print(f"{command.workdir}, {command.flags.split}", table, sep="\n", markup=False)


if __name__ == "__main__":
    cli.run(main, base=Experiment, flags=FLAGS, doc=__doc__)
