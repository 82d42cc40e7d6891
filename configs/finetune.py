"""Fine-tuning on one task: a task of the standard library, or of your own files.

    python -m experiments.finetune --config=configs/finetune.py:task=packages --from=runs/mlm_stdlib \\
        --workdir=runs/packages
    python -m experiments.finetune --config=configs/finetune.py:train=sst2/train.tsv --from=runs/bert \\
        --workdir=runs/sst2 task.examples.validation=sst2/dev.tsv recipe.learning_rates=3e-5,1e-4 recipe.seeds=0,1,2

`train` is a table or JSON lines of texts with labels, and names the task (sst2) unless `task` does: a file of another
kind is another class, as in task=TokenClassification task.examples=ConllExamples.
"""

import re
from pathlib import Path

from ptjax.config import UserError
from ptjax.data.examples import JsonExamples, TableExamples
from ptjax.finetune import FineTuning, Recipe
from ptjax.tasks import SequenceClassification

from .suites import stdlib


def get_config(task: str | None = None, train: str | None = None, length: int = 128) -> FineTuning:
    suite = stdlib.get_config()
    named = {one.name: one for one in suite.tasks}
    if train is not None:
        if task in named:
            raise UserError(f"task={task} is of the standard library: leave train={train} out, or name the task anew")
        kind = JsonExamples if ".json" in train else TableExamples
        own = SequenceClassification(name=task or name_of(train), examples=kind(train=train), length=length)
        return FineTuning(task=own, recipe=Recipe(learning_rates=(3e-5, 1e-4), evaluations=6))
    task = task or "packages"
    if task not in named:
        raise UserError(f"task={task!r}: the standard library's are {', '.join(named)}; train=FILE is one of your own")
    return FineTuning(task=named[task], recipe=suite.recipe)


def name_of(train: str) -> str:
    """Of the task of a file: sst2/train.tsv -> sst2, mine.csv -> mine."""
    path = Path(train).absolute()
    stem = path.name.partition(".")[0]
    name = path.parent.name if re.match("train|[*]", stem) else stem
    return re.sub("[^A-Za-z0-9-]+", "_", name).strip("_") or "own"
