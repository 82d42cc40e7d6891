"""An experiment as a value, the pure training step, and `train`, which runs it."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import chz
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ptjax import partition
from ptjax.checkpoint import Checkpoints, check_workdir, restore_params
from ptjax.config import Config, UserError
from ptjax.data.pipeline import Data, Pipeline, Shard
from ptjax.data.tokenizers import VocabSpec
from ptjax.evaluate import evaluate
from ptjax.logging import Logger, Logging, measure_peak
from ptjax.loop import Loop, Signals
from ptjax.models.base import TextModelConfig
from ptjax.models.heads import init, logical_axes
from ptjax.objectives.base import Objective, StepContext
from ptjax.optim import AdamW, Optimizer
from ptjax.types import Array, Batch, Losses, Metrics, PyTree, TrainState

# One stream of random keys for each use, so that none can follow from another.
INIT, CORRUPT, DROPOUT, EVALUATE = range(4)


@chz.chz
class Checkpointing(Config):
    """When the state is saved and what is kept. The end of a run, SIGTERM and Ctrl-C always save."""

    every: int | None = chz.field(default=None, doc="steps between saves; None: only by time")
    minutes: float | None = chz.field(default=5.0, doc="minutes between saves; None: only by steps")
    keep: int = chz.field(default=2, doc="how many of the latest steps are kept")
    best: str | None = chz.field(default="loss", doc="the validation metric whose lowest step is kept too; None: no")

    @chz.validate
    def _positive(self):
        _require_positive(self, "checkpoint", ("every", "minutes", "keep"))


@chz.chz
class Evaluation(Config):
    """Validation during training."""

    every: int | None = chz.field(default=None, doc="steps between validations; None: only at the end")
    batches: int | None = chz.field(default=None, doc="batches of the validation split; None: all of it")

    @chz.validate
    def _positive(self):
        _require_positive(self, "evaluation", ("every", "batches"))


def _require_positive(config: Config, path: str, names: Sequence[str]) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and value <= 0:
            raise ValueError(f"{path}.{name} must be above 0, not {value}")


@chz.chz
class Experiment(Config):
    """A run, whole: what `configs/*.py` return and what every checkpoint carries as JSON."""

    model: TextModelConfig = chz.field(
        meta_factory=chz.factories.subclass(TextModelConfig), doc="the body: BERT, GPT or a class of yours"
    )
    objective: Objective = chz.field(
        meta_factory=chz.factories.subclass(Objective), doc="what is learned: MLM, CausalLM or a class of yours"
    )
    data: Data
    steps: int = chz.field(doc="updates in all")
    optimizer: Optimizer = chz.field(
        default_factory=AdamW, meta_factory=chz.factories.subclass(Optimizer, AdamW), doc="AdamW, LAMB, Lion, Muon, SGD"
    )
    seed: int = chz.field(default=0, doc="of initial parameters, data order, masks and dropout")
    accumulation: int = chz.field(default=1, doc="microbatches a step: less memory, the same numbers")
    ema: float | None = chz.field(default=None, doc="decay of an average of the parameters, which is what is evaluated")
    skip_non_finite: bool = chz.field(
        default=False, doc="skip an update whose gradient is not finite, rather than stop"
    )
    skip_spikes: float | None = chz.field(
        default=None, doc="skip an update whose gradient norm is so many times its running average"
    )
    mesh: partition.MeshConfig = chz.field(default_factory=partition.MeshConfig, doc="how devices share the work")
    checkpoint: Checkpointing = chz.field(default_factory=Checkpointing, doc="when to save")
    evaluation: Evaluation = chz.field(default_factory=Evaluation, doc="when to validate")
    logging: Logging = chz.field(default_factory=Logging, doc="what to show")
    profile: tuple[int, int] | None = chz.field(
        default=None, doc="first and last step to profile into workdir/profile, numbered as in metrics.jsonl"
    )

    @chz.validate
    def _positive(self):
        for name in ("steps", "accumulation"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be in [0, 2**32), not {self.seed}")
        if self.skip_spikes is not None and self.skip_spikes <= 1:
            raise ValueError(f"skip_spikes is a multiple of the usual gradient norm, above 1, not {self.skip_spikes}")
        if self.profile and not 1 <= self.profile[0] <= self.profile[1]:
            raise ValueError(f"profile is a first and a last step, counted from 1, not {self.profile}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema is a decay in (0, 1), not {self.ema}")

    def tokens_per_step(self) -> int:
        return self.data.batch_size * self.data.length

    def flops_per_step(self, vocab: VocabSpec) -> float:
        """Matrix-product FLOPs of one step: forward once, backward twice, recomputation (remat) not counted."""
        return 3.0 * self.data.batch_size * self.objective.flops_per_row(self.model, self.data.length, vocab)

    def check(self, mesh: jax.sharding.Mesh) -> None:
        """Raises UserError for sizes that do not fit each other, before anything is compiled."""
        self.model.check_length(self.data.length)
        if self.objective.predicted(self.data.length) < 1:
            raise UserError(
                f"{self.objective} predicts nothing in rows of data.length={self.data.length}: raise either"
            )
        shards = partition.batch_shards(mesh)
        parts = shards * self.accumulation
        if self.data.batch_size % parts:
            near = max(self.data.batch_size // parts, 1) * parts
            raise UserError(
                f"data.batch_size={self.data.batch_size} does not divide into mesh.data * mesh.fsdp = {shards} shards "
                f"of accumulation={self.accumulation} microbatches: use a multiple of {parts}, such as {near}"
            )


# --- the pure step ---


def example_keys(seed: Array, stream: int, step: Array, index_B: Array) -> Array:
    """[B] random keys, each a function of (seed, step, example) alone, whatever the mesh and the batch."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), stream), step)
    return jax.vmap(lambda index: jax.random.fold_in(key, index))(index_B.astype(jnp.uint32))


@dataclasses.dataclass(frozen=True, eq=False)
class Learner:
    """The pure functions of an experiment: initial state, training step, evaluation step. Holds no arrays."""

    experiment: Experiment
    vocab: VocabSpec

    @functools.cached_property
    def net(self):
        return self.experiment.objective.net(self.experiment.model, self.vocab)

    @functools.cached_property
    def params_shape(self) -> PyTree:
        return jax.eval_shape(lambda: init(self.net, jax.random.key(0), self.experiment.data.length))

    @functools.cached_property
    def tx(self) -> optax.GradientTransformation:
        return self.experiment.optimizer.transform(self.params_shape)

    def init_state(self, seed: Array) -> TrainState:
        """The state before the first step; seed: u32[]."""
        e = self.experiment
        key = jax.random.fold_in(jax.random.key(seed), INIT)
        params = init(self.net, key, e.data.length)
        guard = None
        if e.skip_non_finite or e.skip_spikes:
            guard = {"norm": jnp.zeros((), jnp.float32), "skipped": jnp.zeros((), jnp.int32)}
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            seed=jnp.asarray(seed, jnp.uint32),
            hyper=e.optimizer.hyper(),
            params=params,
            opt_state=self.tx.init(params),
            # A copy: two leaves that share a buffer cannot both be donated.
            ema=None if e.ema is None else jax.tree.map(jnp.copy, params),
            guard=guard,
        )

    def shardings(self, mesh: jax.sharding.Mesh) -> tuple[PyTree, PyTree]:
        """(abstract TrainState, its shardings), from shapes alone."""
        abstract = jax.eval_shape(self.init_state, jax.ShapeDtypeStruct((), jnp.uint32))
        names = logical_axes(self.net, self.experiment.data.length)
        return abstract, partition.state_shardings(abstract, names, mesh, self.experiment.mesh.rules)

    def corrupted(self, state: TrainState, batch: Batch) -> Batch:
        """The batch of `state.step` as the model will see it: what replay and the laws look at."""
        keys = example_keys(state.seed, CORRUPT, state.step, batch["index"])
        return self.experiment.objective.corrupt(batch, keys, self.vocab)

    def train_step(self, state: TrainState, batch: Batch, axis: str | None = None) -> tuple[TrainState, Metrics]:
        """One update. With `axis`, the batch is one device's share and sums are taken over that axis (pmap)."""
        e = self.experiment
        total = (lambda tree: jax.lax.psum(tree, axis)) if axis else (lambda tree: tree)
        batch = self.corrupted(state, batch)
        # Weights of the whole batch come first: each microbatch's gradient is then a plain share of the sum.
        weights = total(e.objective.weights(batch, self.vocab))
        # Cheaper bits than the default generator's, which cost a third of a step on CPUs.
        key = jax.random.fold_in(jax.random.key(state.seed, impl="rbg"), DROPOUT)
        key = jax.random.fold_in(key, state.step)
        if axis:
            key = jax.random.fold_in(key, jax.lax.axis_index(axis))
        grads, losses = self._accumulate(state.params, batch, weights, key)
        grads, losses = total(grads), total(losses)

        norm = optax.tree.norm(grads)
        direction, opt_state = self.tx.update(grads, state.opt_state, state.params)
        rate = state.hyper["learning_rate"] * e.optimizer.factor(state.step, e.steps)
        updates = jax.tree.map(lambda d: -rate * d, direction)
        new = state.replace(step=state.step + 1, params=optax.apply_updates(state.params, updates), opt_state=opt_state)
        if e.ema is not None:
            new = new.replace(ema=optax.incremental_update(new.params, state.ema, 1 - e.ema))
        metrics = self.report(losses, weights) | {"learning_rate": (rate, 1.0)}
        metrics |= _norms("gradient", grads) | _norms("update", updates) | _norms("parameter", state.params)
        if state.guard is not None:
            new = self._guard(state, new, norm)
            metrics["skipped"] = (new.guard["skipped"], 1.0)
        return new, metrics

    def eval_step(self, params: PyTree, batch: Batch, axis: str | None = None) -> Metrics:
        """Sums and weights over one batch. The question put to an example depends on the seed and on nothing else."""
        keys = example_keys(jnp.uint32(self.experiment.seed), EVALUATE, jnp.int32(0), batch["index"])
        objective = self.experiment.objective
        batch = objective.corrupt(batch, keys, self.vocab)

        def sums(micro):
            weights = objective.weights(micro, self.vocab)
            losses = objective.losses(self.net, {"params": params}, micro, StepContext(self.vocab))
            return {f"loss/{name}": (total, weights[name]) for name, total in losses.totals.items()} | losses.metrics

        if self.experiment.accumulation == 1:
            total = sums(batch)
        else:  # what only fits in parts when training only fits in parts here
            total = jax.tree.map(lambda x: x.sum(axis=0), jax.lax.map(sums, self._microbatches(batch)))
        return jax.lax.psum(total, axis) if axis else total

    def loss(self, terms: dict[str, float]) -> float:
        """What is minimised, from the mean of each term."""
        coefficients = self.experiment.objective.coefficients()
        return sum(coefficients.get(name, 1.0) * value for name, value in terms.items())

    def report(self, losses: Losses, weights: dict[str, Array]) -> Metrics:
        terms = {name: total / _positive(weights[name]) for name, total in losses.totals.items()}
        each = {f"loss/{name}": (losses.totals[name], weights[name]) for name in terms} if len(terms) > 1 else {}
        return {"loss": (self.loss(terms), 1.0)} | each | losses.metrics

    def _accumulate(self, params: PyTree, batch: Batch, weights: dict[str, Array], key: Array) -> tuple[PyTree, Losses]:
        """Gradient of sum_k coefficient_k total_k / weight_k, and the totals, over all microbatches."""

        def objective(params, micro, key):
            context = StepContext(self.vocab, key)
            losses = self.experiment.objective.losses(self.net, {"params": params}, micro, context)
            return self.loss({k: v / _positive(weights[k]) for k, v in losses.totals.items()}), losses

        gradient = jax.grad(objective, has_aux=True)
        count = self.experiment.accumulation
        if count == 1:
            return gradient(params, batch, key)
        micro = self._microbatches(batch)

        def add(carry, item):
            result = gradient(params, item[0], jax.random.fold_in(key, item[1]))
            return jax.tree.map(jnp.add, carry, result), None

        shape = jax.eval_shape(gradient, params, jax.tree.map(lambda x: x[0], micro), key)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shape)
        return jax.lax.scan(add, zeros, (micro, jnp.arange(count)))[0]

    def _microbatches(self, batch: Batch) -> Batch:
        """[B, ...] -> [A, B / A, ...]. Microbatch i takes every A-th row: contiguous ones would change devices."""
        count = self.experiment.accumulation
        return {k: v.reshape((v.shape[0] // count, count) + v.shape[1:]).swapaxes(0, 1) for k, v in batch.items()}

    def _guard(self, old: TrainState, new: TrainState, norm: Array) -> TrainState:
        """`new`, or `old` with its step counted, where the gradient is not to be trusted."""
        running, finite = old.guard["norm"], jnp.isfinite(norm)
        limit = (self.experiment.skip_spikes or jnp.inf) * running
        bad = ~finite | ((running > 0) & (norm > limit))
        # A spike counts as the limit, so that norms that have risen for good are accepted in the end.
        seen = jnp.where(running > 0, 0.98 * running + 0.02 * jnp.minimum(norm, limit), norm)
        guard = {"norm": jnp.where(finite, seen, running), "skipped": old.guard["skipped"] + bad}
        kept = jax.tree.map(lambda a, b: jnp.where(bad, a, b), old.replace(guard=None), new.replace(guard=None))
        return kept.replace(step=new.step, guard=guard)


def _positive(weight: Array) -> Array:
    return jnp.where(weight > 0, weight, 1.0)


def _norms(kind: str, tree: PyTree) -> Metrics:
    """Global norm, and that of each module: body.embed, body.layers, head, ..."""
    parts = {"": tree} | {f"/{name}": part for name, part in tree.items() if name != "body"}
    parts |= {f"/body.{name}": part for name, part in tree["body"].items()}
    return {f"{kind}_norm{name}": (optax.tree.norm(part), 1.0) for name, part in parts.items() if jax.tree.leaves(part)}


# --- the loop ---


@dataclasses.dataclass
class Run:
    """An experiment on this machine's devices: compiled steps, data and state."""

    experiment: Experiment
    learner: Learner
    mesh: jax.sharding.Mesh
    pipeline: Pipeline
    abstract: PyTree  # TrainState of ShapeDtypeStructs with shardings
    shardings: PyTree

    @classmethod
    def open(cls, experiment: Experiment, devices: Sequence[jax.Device] | None = None) -> "Run":
        """Opens data and devices (None: all) and checks that everything fits; compiles nothing. Raises UserError."""
        mesh = partition.make_mesh(experiment.mesh, devices)
        experiment.check(mesh)
        pipeline = Pipeline(experiment.data, seed=experiment.seed)
        learner = Learner(experiment, pipeline.vocab)
        abstract, shardings = learner.shardings(mesh)
        abstract = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)
        return cls(experiment, learner, mesh, pipeline, abstract, shardings)

    @property
    def shard(self) -> Shard:
        return Shard(*partition.process_part(self.mesh))

    def init(self) -> TrainState:
        """A fresh state, made where it will live: no host holds all of it."""
        seed = np.uint32(self.experiment.seed)
        return jax.jit(self.learner.init_state, out_shardings=self.shardings)(seed)

    @functools.cached_property
    def train_step(self) -> partition.CompiledStep:
        return self._compile(self.learner.train_step, self.shardings, updates=True)

    @functools.cached_property
    def eval_step(self) -> partition.CompiledStep:
        return self._compile(self.learner.eval_step, self.shardings.params, updates=False)

    def _compile(self, step, shardings, updates):
        config = self.experiment.mesh
        return partition.compile_step(step, self.mesh, config.rules, shardings, layout=config.layout, updates=updates)

    def restore_params(self, workdir: str | Path, step: int | None = None) -> PyTree:
        """What is evaluated of a run: the parameters of its last good checkpoint, or of `step`, or their average."""
        field = "params" if self.experiment.ema is None else "ema"
        abstract = self.abstract.params
        return restore_params(Path(workdir) / "checkpoints", abstract, step, only=tuple(abstract), field=field)

    def evaluate(self, params: PyTree, split: str = "validation", batches: int | None = None) -> dict[str, float]:
        """Means over a split of the prepared data, every row once: loss, perplexity, accuracy, bits a byte."""
        pipeline = Pipeline(self.experiment.data, split, shuffle=False)
        scores = evaluate(self.eval_step, self.learner.loss, params, pipeline.one_pass(batches, self.shard))
        if "fill" in self.experiment.objective.abilities() and "perplexity" in scores:
            scores["pseudo_perplexity"] = scores.pop("perplexity")  # of masked tokens: no causal model's
        return scores


def train(
    run: Run, workdir: str | Path, *, on_event: Callable[[str], None] = print
) -> tuple[TrainState, dict[str, float]]:
    """Trains in `workdir`, resuming what is there; returns the final state and its validation.

    Raises:
      UserError: sizes, data or checkpoints that do not fit; a loss that is not finite.
      Interrupted: SIGTERM or Ctrl-C; the state is saved.
    """
    experiment, workdir = run.experiment, Path(workdir)
    Pipeline(experiment.data, "validation", shuffle=False)  # what would fail after the last step fails now
    check_workdir(workdir, experiment)
    checkpoints = Checkpoints(
        workdir / "checkpoints", experiment.checkpoint.keep, experiment.checkpoint.best, on_event=on_event
    )
    restored = checkpoints.restore(run.abstract)
    state, start = restored if restored else (run.init(), 0)
    if start >= experiment.steps:
        on_event(f"Step {start} of {experiment.steps} is done: nothing left to train")
        checkpoints.close()
        return state, run.evaluate(state.averaged, batches=experiment.evaluation.batches)
    peak = measure_peak(experiment.model.dtype)
    logger = Logger(
        workdir,
        experiment.logging,
        total_steps=experiment.steps,
        tokens_per_step=experiment.tokens_per_step(),
        flops_per_step=experiment.flops_per_step(run.learner.vocab),
        peak_flops=peak * jax.device_count(),
        primary=jax.process_index() == 0,
        start_step=start,
    )
    with contextlib.closing(logger), Signals() as signals:
        if start:
            logger.event(f"Resuming from step {start} of {experiment.steps}")
        loop = Loop(run, checkpoints, logger, signals, workdir)
        try:
            return loop.run(state, start)
        finally:
            checkpoints.close()
