"""Fine-tune a model on a task: learning rates by seeds, the best kept; the same command goes on where it stopped.

python -m experiments.finetune --config=configs/finetune.py:task=packages --from=runs/mlm_stdlib --workdir=runs/packages
python -m experiments.finetune --config=configs/finetune.py --from=runs/bert --workdir=runs/sst2 \\
    task.examples.train=sst2/train.tsv task.examples.validation=sst2/dev.tsv recipe.seeds=0,1,2
"""

import json
from pathlib import Path

import chz
import jax
from rich.table import Table

from ptjax.config import describe
from ptjax.finetune import FineTuning, finetune
from ptjax.finetune.cells import BEST, CELLS, CellFolder
from ptjax.weights import config_of

from . import cli, show

FLAGS = {
    "--from": dict(metavar="DIR", dest="source", help="workdir of a run, or Hugging Face folder, that it begins from"),
    "--json": dict(action="store_true", help="print the result as one line of JSON at the end"),
}


def main(command: cli.Command) -> None:
    config = (
        command.config if command.flags.source is None else chz.replace(command.config, init_from=command.flags.source)
    )
    if config.init_from is not None:
        config_of(config.init_from)  # what is not there is said before anything else
    print(describe(config), flush=True)
    result = finetune(config, command.workdir)
    if jax.process_index():
        return
    show.console.print(
        f"\n{result['task']}, {result['metric']}", cells(command.workdir, result), sep="\n", markup=False
    )
    print(f"\npredictions  {command.workdir / CELLS}")
    if (command.workdir / BEST).is_dir():
        print(f"best model   {command.workdir / BEST}")
    if command.flags.json:
        print(json.dumps(result))


def cells(workdir: Path, result: dict) -> Table:
    """Every run that is done; those of the selected rate are marked."""
    table = Table(box=None, pad_edge=False)
    for name in ("run", "best step", "validation", "test"):
        table.add_column(name, justify="left" if name == "run" else "right")
    for folder in sorted((workdir / CELLS).iterdir()):
        if not CellFolder(folder).done:
            continue
        cell = CellFolder(folder).read()
        scores = [cell["scores"].get(split, {}).get(result["metric"]) for split in ("validation", "test")]
        shown = ("–" if score is None else f"{score:.4f}" for score in scores)
        table.add_row(folder.name + " *" * (folder.name in result["cells"]), str(cell["best_step"]), *shown)
    return table


if __name__ == "__main__":
    cli.run(main, base=FineTuning, flags=FLAGS, doc=__doc__)
