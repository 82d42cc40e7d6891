"""Fine-tune a model on a task: learning rates by seeds, the best kept; the same command goes on where it stopped.

python -m experiments.finetune --config=configs/finetune.py:task=packages --from=runs/mlm_stdlib --workdir=runs/packages
python -m experiments.finetune --config=configs/finetune.py --from=runs/bert --workdir=runs/sst2 \\
    task.examples.train=sst2/train.tsv task.examples.validation=sst2/dev.tsv recipe.seeds=0,1,2
"""

import json

import chz
import jax
from rich.table import Table

from ptjax.config import describe
from ptjax.finetune import FineTuning, finetune
from ptjax.finetune.cells import BEST, Cell, CellFolder

from . import cli, show

FLAGS = {
    "--from": dict(metavar="DIR", dest="source", help="workdir of a run, or Hugging Face folder, that it begins from"),
    "--json": dict(action="store_true", help="print the result as one line of JSON at the end"),
}


def main(command: cli.Command) -> None:
    config = (
        command.config if command.flags.source is None else chz.replace(command.config, init_from=command.flags.source)
    )
    print(describe(config), flush=True)
    result = finetune(config, command.workdir)
    if jax.process_index():
        return
    table = Table(box=None, pad_edge=False)
    for name in ("learning rate", "seed", "best step", "validation", "test"):
        table.add_column(name, justify="right")
    metric = result["metric"]
    for rate in config.recipe.learning_rates:
        for seed in config.recipe.seeds:
            folder = CellFolder.of(command.workdir, Cell(rate, seed))
            if folder.done:
                cell = folder.read()
                scores = [cell["scores"].get(split, {}).get(metric) for split in ("validation", "test")]
                chosen = " *" if rate == result["learning_rate"] else ""
                table.add_row(f"{rate:g}{chosen}", str(seed), str(cell["best_step"]),
                              *("hidden" if score is None else f"{score:.4f}" for score in scores))  # fmt: skip
    show.console.print(f"\n{result['task']}, {metric}", table, sep="\n", markup=False)
    print(f"\npredictions  {command.workdir / 'cells'}\nbest model   {command.workdir / BEST}")
    if command.flags.json:
        print(json.dumps(result))


if __name__ == "__main__":
    cli.run(main, base=FineTuning, flags=FLAGS, doc=__doc__)
