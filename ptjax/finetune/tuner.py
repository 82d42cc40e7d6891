"""The device's side of fine-tuning: one compiled step for all runs of a grid, alone or several under vmap."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ptjax import partition
from ptjax.config import UserError
from ptjax.finetune.config import FineTuning, Lesson
from ptjax.learner import Learner
from ptjax.objectives.base import StepContext
from ptjax.pretrained import Pretrained
from ptjax.tasks.base import Task
from ptjax.tasks.encoded import Batch, Encoded
from ptjax.types import Array, PyTree, TrainState
from ptjax.weights import Beginning

BEGUN = ("body", "pooler")  # parts that a model is begun with: heads answer another question


@dataclasses.dataclass(eq=False)
class Tuner:
    """Compiled for a task, a body and a batch size; learning rate and seed are arrays. Compiles when first used, once
    for each length of rows.

    task: resolved. steps: of a run. together: runs in one state, whose leaves then have a leading axis.
    """

    config: FineTuning
    task: Task
    start: Pretrained
    steps: int
    together: int = 1

    def __post_init__(self):
        recipe, model = self.config.recipe, self.config.body(self.start.model)
        lesson = Lesson(
            model, self.task, recipe.optimizer, self.steps, self.task.length, recipe.batch_size, self.config.mesh
        )
        self.learner = Learner(lesson, self.start.tokenizer.vocab)
        devices = None if recipe.together == 1 else jax.devices()[:1]
        self.mesh = partition.make_mesh(self.config.mesh, devices)
        shards = partition.batch_shards(self.mesh)
        if recipe.batch_size % shards:
            raise UserError(f"recipe.batch_size={recipe.batch_size} does not divide into {shards} shards of the mesh")
        self.abstract, self.shardings = self.learner.shardings(self.mesh)

    @functools.cached_property
    def beginning(self) -> Beginning:
        """The weights of the model that it begins from. Raises UserError where they do not fit."""
        source = self.start.source
        parts = {name: part for name, part in source.shapes.items() if name in BEGUN}
        source, target = dataclasses.replace(source, shapes=parts), self.abstract.params
        return source.fit(target, self.learner.logical_axes, self.learner.vocab.size, self.learner.experiment.model)

    @functools.cached_property
    def _weights(self) -> PyTree:
        """Read once, for all runs."""
        return None if self.config.fresh else self.beginning.read(self.shardings.params)

    @functools.cached_property
    def _init(self):
        def first(seed, weights):
            if weights is None:
                return self.learner.init_state(seed)
            return self.learner.init_state(seed, begin=lambda fresh: self.beginning.transplant(weights, fresh))

        if self.together > 1:
            first = jax.vmap(first, in_axes=(0, None))
        return jax.jit(first, out_shardings=self.shardings)

    def init(self, rates: Sequence[float], seeds: Sequence[int]) -> TrainState:
        """The first state of as many runs as train together."""
        alone = self.together == 1
        state = self._init(np.uint32(seeds[0] if alone else seeds), self._weights)
        rate = jnp.float32(rates[0] if alone else rates)
        return state.replace(hyper={"learning_rate": jax.device_put(rate, state.hyper["learning_rate"].sharding)})

    @functools.cached_property
    def _step(self) -> partition.CompiledStep:
        step = self.learner.train_step
        if self.together > 1:
            step = jax.vmap(step)
        return self._compile(step, self.shardings, self.shardings)

    @functools.cached_property
    def _predict(self) -> partition.CompiledStep:
        def predict(params, batch):
            context = StepContext(self.learner.vocab)
            return None, self.task.predict(self.learner.net, {"params": params}, batch, context)

        return self._compile(predict, self.shardings.params, None, donate=False)

    def _compile(self, step, shardings, out, donate=True) -> partition.CompiledStep:
        return partition.compile_step(step, self.mesh, self.config.mesh.rules, shardings, out, "jit", donate)

    def train(self, state: TrainState, encoded: Encoded, rows: Sequence[np.ndarray]) -> tuple[TrainState, Array, float]:
        """One step of every run, each on rows of its own: (state; the loss, f32[] or f32[together], still on the
        device; matrix-product FLOPs of one run)."""
        length = max(encoded.fitting(some) for some in rows)
        batches = [self._own(encoded, some, length) for some in rows]
        batch = batches[0]
        if self.together > 1:
            batch = {name: np.stack([one[name] for one in batches]) for name in batch}
        state, metrics = self._step(state, self._step.place(batch))
        return state, metrics["loss"][0], self.flops(length)

    def predict(self, params: PyTree, encoded: Encoded) -> dict[str, np.ndarray]:
        """`Task.predict` of every row, in the order of the rows. params: of one run."""
        size, found = self.config.recipe.batch_size, {}
        for rows in encoded.one_pass(size):
            batch = self._own(encoded, rows, encoded.fitting(rows))
            _, outputs = self._predict(params, self._predict.place(batch))
            real = rows >= 0
            for name, values in jax.device_get(outputs).items():
                if name not in found:
                    shape = values.shape[1:]
                    if shape and name in self.task.by_token:
                        shape = (encoded.length, *shape[1:])
                    found[name] = np.zeros((len(encoded), *shape), values.dtype)
                place = (rows[real], slice(values.shape[1])) if name in self.task.by_token else rows[real]
                found[name][place] = values[real]
        return found

    def _own(self, encoded: Encoded, rows: np.ndarray, length: int) -> Batch:
        """This process's part of a batch."""
        index, count = partition.process_part(self.mesh)
        size = len(rows) // count
        return encoded.batch(rows[index * size : (index + 1) * size], length)

    def params(self, state: TrainState, run: int) -> PyTree:
        """The parameters of a run, good until the next step."""
        return state.params if self.together == 1 else jax.tree.map(lambda leaf: leaf[run], state.params)

    def copy(self, params: PyTree) -> PyTree:
        """What `params` gave, to be kept."""
        return jax.tree.map(jnp.copy, params) if self.together == 1 else params

    @property
    def parameters(self) -> tuple[int, int]:
        """How many there are, and how many of them learn."""
        leaves = jax.tree_util.tree_leaves_with_path(self.abstract.params)
        learns = lambda path: self.task.learns(tuple(key.key for key in path))  # noqa: E731
        return sum(x.size for _, x in leaves), sum(x.size for path, x in leaves if learns(path))

    def flops(self, length: int) -> float:
        """Matrix-product FLOPs of a run's step on rows of so many tokens."""
        per_row = self.task.flops_per_row(self.learner.experiment.model, length, self.learner.vocab)
        return self.task.tuning.passes(self.abstract.params) * self.config.recipe.batch_size * per_row
