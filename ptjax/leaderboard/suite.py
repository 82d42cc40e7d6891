"""A suite: what a leaderboard compares models on."""

import chz

from ptjax.config import Config
from ptjax.finetune import Recipe
from ptjax.tasks import Task

PREDICTIONS = "predictions"  # in a submission's folder, beside those of tasks


@chz.chz
class Suite(Config):
    """Tasks, how a model learns them, and how sure a score has to be. What may be used is the same for all: a task's
    `limit` of examples and its `length`, and the recipe's grid."""

    name: str = chz.field(doc="in titles")
    tasks: tuple[Task, ...] = chz.field(doc="a score is the mean of their headlines")
    recipe: Recipe = chz.field(default_factory=Recipe, doc="learning rates, seeds, epochs of every fine-tuning")
    resamples: int = chz.field(default=1000, doc="of the bootstrap")
    confidence: float = chz.field(default=0.95, doc="of intervals, and of what counts as a difference")

    @chz.validate
    def _whole(self):
        if not self.tasks:
            raise ValueError("tasks: at least one")
        names = [task.name for task in self.tasks]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"tasks: two are named {', '.join(twice)}; names of results have to be told apart")
        if PREDICTIONS in names:
            raise ValueError(f"a task cannot be named {PREDICTIONS!r}: predictions are kept in a folder of that name")
        if self.resamples < 1:
            raise ValueError(f"resamples={self.resamples}: at least 1")
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence is a share in (0, 1), not {self.confidence}")
