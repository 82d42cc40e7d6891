"""Fine-tuning as a value: a task, what it begins from, and the recipe of its runs."""

import dataclasses
import math
from typing import Literal

import chz

from ptjax import partition
from ptjax.config import Config, UserError
from ptjax.models.base import TextModelConfig
from ptjax.optim import AdamW, Linear, Optimizer
from ptjax.tasks.base import Task


@chz.chz
class Recipe(Config):
    """A grid of runs: every learning rate with every seed. A seed decides the head's first weights, the order of the
    examples and dropout. The default is BERT's (Devlin et al., 2019, appendix A.3) with Mosbach et al.'s warm-up."""

    learning_rates: tuple[float, ...] = chz.field(default=(5e-5,), doc="peak rates, of which the validation chooses")
    seeds: tuple[int, ...] = chz.field(default=(0,), doc="runs of each rate")
    epochs: float = chz.field(default=3.0, doc="passes over the training examples, of tasks that do not say themselves")
    batch_size: int = chz.field(default=32, doc="rows a step")
    optimizer: Optimizer = chz.field(
        default_factory=lambda: AdamW(schedule=Linear(warmup=0.1), weight_decay=0.01),
        meta_factory=chz.factories.subclass(Optimizer, AdamW),
        doc="its peak_lr is not used: learning_rates are",
    )
    evaluations: int = chz.field(default=4, doc="validations a run, evenly spread; the best one's parameters are kept")
    patience: int | None = chz.field(default=None, doc="validations without a better one that end a run; None: never")
    together: int = chz.field(
        default=1,
        doc="runs that train at once under vmap, on the first device: faster where one alone does not fill it",
    )

    @chz.validate
    def _sensible(self):
        for name in ("learning_rates", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ValueError(f"recipe.{name}={values}: at least one, and none twice")
        if not all(0 < rate < math.inf for rate in self.learning_rates):
            raise ValueError(f"recipe.learning_rates={self.learning_rates}: all above 0")
        if not all(0 <= seed < 2**32 for seed in self.seeds):
            raise ValueError(f"recipe.seeds={self.seeds}: all in [0, 2**32)")
        if not 0 < self.epochs < math.inf:
            raise ValueError(f"recipe.epochs={self.epochs}: above 0")
        for name in ("batch_size", "evaluations", "patience", "together"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"recipe.{name}={value}: at least 1")

    def steps(self, task: Task, rows: int) -> int:
        """Updates of a run over so many rows an epoch."""
        return max(math.ceil((task.epochs or self.epochs) * rows / self.batch_size), 1)

    def evaluation_steps(self, steps: int) -> list[int]:
        """After which steps a run of so many validates; the last is always one."""
        count = min(self.evaluations, steps)
        return [round(steps * (i + 1) / count) for i in range(count)]


@chz.chz
class FineTuning(Config):
    """Runs of one task from one model."""

    instead = (
        "this folder holds runs of a task, of which `best` is a model: experiments.finetune begins from it by "
        "--from=WORKDIR/best, and experiments.leaderboard compares models"
    )

    task: Task = chz.field(meta_factory=chz.factories.subclass(Task), doc="what is learned, and from which examples")
    init_from: str | None = chz.field(default=None, doc="workdir of a run, or Hugging Face folder; --from sets it")
    fresh: bool = chz.field(default=False, doc="the same body with random weights: what pre-training is held against")
    recipe: Recipe = chz.field(default_factory=Recipe, doc="learning rates, seeds, epochs")
    dropout: float | None = chz.field(default=None, doc="of the body and its attention; None: as it was pre-trained")
    dtype: Literal["float32", "bfloat16"] | None = chz.field(default=None, doc="compute type; None: as pre-trained")
    mesh: partition.MeshConfig = chz.field(default_factory=partition.MeshConfig, doc="how devices share the work")

    @chz.validate
    def _known(self):
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), not {self.dropout}")
        if self.recipe.together > 1 and self.mesh != partition.MeshConfig():
            raise ValueError(f"recipe.together={self.recipe.together} is for one device: leave mesh as it is")
        if self.mesh.layout != "jit":
            raise ValueError("fine-tuning compiles for a mesh: leave mesh.layout=jit")

    def body(self, model: TextModelConfig) -> TextModelConfig:
        """The body that is fine-tuned, of the one that was pre-trained. Raises UserError where rows do not fit it."""
        changes = {} if self.dtype is None else {"dtype": self.dtype}
        if self.dropout is not None:
            changes |= {"dropout": self.dropout, "attention_dropout": self.dropout}
        if model.memory_length:  # rows stand alone
            changes["memory"] = 0
        model = chz.replace(model, **changes)
        try:
            model.check_length(self.task.length)
        except UserError:
            raise UserError(
                f"task.length={self.task.length} is longer than the body's position table: set "
                f"task.length={model.max_length} or less"
            ) from None
        return model


@chz.chz
class FineTuned(Config):
    """What stands beside the parameters of a fine-tuned model."""

    instead = (
        "a fine-tuned model answers its task alone: experiments.finetune begins from it by --from=DIR, and "
        "experiments.leaderboard compares models"
    )

    model: TextModelConfig = chz.field(meta_factory=chz.factories.subclass(TextModelConfig), doc="the body")
    objective: Task = chz.field(meta_factory=chz.factories.subclass(Task), doc="the task, resolved")


@dataclasses.dataclass(frozen=True)
class Lesson:
    """A run of a recipe as `learner.Learner` asks of an experiment: every run of the grid is the same to it."""

    model: TextModelConfig
    objective: Task
    optimizer: Optimizer
    steps: int
    length: int
    batch_size: int
    mesh: partition.MeshConfig
    seed: int = 0
    accumulation: int = 1
    ema: None = None
    skip_non_finite: bool = False
    skip_spikes: None = None

    @property
    def data(self) -> "Lesson":
        """Itself: length and batch size."""
        return self
