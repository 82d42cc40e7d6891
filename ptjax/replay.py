"""Any step of a run, alone: its batch, what was asked of it, and its loss."""

import dataclasses
import functools

import chz
import jax
import numpy as np

from ptjax.data.pipeline import batch_at
from ptjax.objectives.base import StepContext
from ptjax.train import Run
from ptjax.types import TrainState


@dataclasses.dataclass(frozen=True)
class Replay:
    """batch: the corrupted batch as arrays. metrics: of the step, as training logs them. row_loss: f32[B], each
    example's own loss, without dropout."""

    batch: dict[str, np.ndarray]
    metrics: dict[str, float]
    row_loss: np.ndarray


def replay(run: Run, state: TrainState, step: int) -> Replay:
    """Step `step`, counted from 1 as in metrics.jsonl, under the parameters of `state`.

    With the state of the checkpoint at step - 1 the loss is the one that training saw. Dropout is the same where
    training ran on one device of the same kind: its cheaper random bits depend on both.
    """
    state = state.replace(step=np.int32(step - 1))
    learner = run.learner_at(step - 1)
    batch = run.train_step(step - 1).place(batch_at(run.pipeline, step - 1))
    corrupted = jax.jit(learner.corrupted)(state, batch)
    row_loss = jax.jit(functools.partial(_row_losses, learner))(state, batch)
    metrics = jax.jit(lambda state, batch: learner.train_step(state, batch)[1])(state, batch)
    values = {name: float(total / weight) for name, (total, weight) in jax.device_get(metrics).items() if weight}
    return Replay(jax.device_get(corrupted), values, np.asarray(row_loss))


def _row_losses(learner, state, batch):
    learner = dataclasses.replace(learner, experiment=chz.replace(learner.experiment, accumulation=1))
    objective = learner.objective

    def one(row):
        row = learner.corrupted(state, jax.tree.map(lambda x: x[None], row))
        weights = objective.weights(row, learner.vocab)
        losses = objective.losses(learner.net, {"params": state.params}, row, StepContext(learner.vocab))
        return learner.report(losses, weights)["loss"][0]

    return jax.lax.map(one, batch)
