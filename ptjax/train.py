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
from ptjax.models.heads import init, logical_axes, new_memory
from ptjax.objectives.base import CorruptContext, Objective, Stage, StepContext
from ptjax.optim import AdamW, Optimizer
from ptjax.types import Array, Batch, Losses, Memory, Metrics, PyTree, TrainState

# One stream of random keys for each use, so that none can follow from another.
INIT, CORRUPT, DROPOUT, EVALUATE, FIXED = range(5)


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
        for stage in self.objective.stages(self.steps):
            for objective in stage.objective.parts():
                self._check_objective(objective)
        shards = partition.batch_shards(mesh)
        parts = shards * self.accumulation
        if self.data.batch_size % parts:
            near = max(self.data.batch_size // parts, 1) * parts
            raise UserError(
                f"data.batch_size={self.data.batch_size} does not divide into mesh.data * mesh.fsdp = {shards} shards "
                f"of accumulation={self.accumulation} microbatches: use a multiple of {parts}, such as {near}"
            )

    def _check_objective(self, objective: Objective) -> None:
        name, body = type(objective).__name__, type(self.model).__name__
        if not objective.needs & self.model.offers:
            raise UserError(
                f"{name} needs a body that offers {' or '.join(sorted(objective.needs))}, and {body} offers "
                f"{' and '.join(sorted(self.model.offers))}: docs/objectives.md shows which trains on which"
            )
        if sum(objective.predicted(self.data.length).values()) < 1:
            raise UserError(f"{objective} predicts nothing in rows of data.length={self.data.length}: raise either")
        if not self.model.memory_length:
            return
        if not objective.carries:
            raise UserError(f"{name} does not carry a memory from row to row: set model.memory=0, or choose CausalLM")
        if self.data.order != "contiguous":
            raise UserError(
                f"model.memory={self.model.memory_length} goes on from row to row, which asks for rows in the order of "
                "the text: set data.order=contiguous (or model.memory=0)"
            )
        if self.mesh.layout == "pmap":
            raise UserError("a memory is divided like the batch, which pmap's state cannot be: set mesh.layout=jit")


# --- the pure step ---


def example_keys(seed: Array, stream: int, step: Array, index_B: Array) -> Array:
    """[B] random keys, each a function of (seed, step, example) alone, whatever the mesh and the batch."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), stream), step)
    return jax.vmap(lambda index: jax.random.fold_in(key, index))(index_B.astype(jnp.uint32))


@dataclasses.dataclass(frozen=True, eq=False)
class Learner:
    """The pure functions of an experiment in one of its stages: initial state, training step, evaluation step.

    pieces: the tokenizer's vocabulary. stage: which one trains; the last one asks in validation. Holds no arrays.
    """

    experiment: Experiment
    pieces: VocabSpec
    stage: int = -1

    @functools.cached_property
    def vocab(self) -> VocabSpec:
        return self.experiment.objective.vocabulary(self.pieces)

    @functools.cached_property
    def stages(self) -> tuple[Stage, ...]:
        return self.experiment.objective.stages(self.experiment.steps)

    @property
    def objective(self) -> Objective:
        return self.stages[self.stage].objective

    @functools.cached_property
    def net(self):
        return self.objective.net(self.experiment.model, self.vocab)

    @functools.cached_property
    def whole_net(self):
        """What `init_state` makes parameters for: the net of all stages."""
        return self.net if len(self.stages) == 1 else self.experiment.objective.net(self.experiment.model, self.vocab)

    @functools.cached_property
    def params_shape(self) -> PyTree:
        return self._shape(self.whole_net)

    def _shape(self, net) -> PyTree:
        return jax.eval_shape(lambda: init(net, jax.random.key(0), self.experiment.data.length))

    @functools.cached_property
    def tx(self) -> optax.GradientTransformation:
        return self.experiment.optimizer.transform(self.params_shape)

    def init_state(self, seed: Array) -> TrainState:
        """The state before the first step; seed: u32[]."""
        e = self.experiment
        key = jax.random.fold_in(jax.random.key(seed), INIT)
        params = init(self.whole_net, key, e.data.length)
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
            memory=self.new_memory(),
        )

    def new_memory(self) -> Memory | None:
        """What the first batch of a pass starts from."""
        return new_memory(self.experiment.model, self.experiment.data.batch_size)

    def shardings(self, mesh: jax.sharding.Mesh) -> tuple[PyTree, PyTree]:
        """(abstract TrainState, its shardings), from shapes alone."""
        abstract = jax.eval_shape(self.init_state, jax.ShapeDtypeStruct((), jnp.uint32))
        names = logical_axes(self.whole_net, self.experiment.data.length)
        shardings = partition.state_shardings(abstract.replace(memory=None), names, mesh, self.experiment.mesh.rules)
        rows = partition.batch_sharding(mesh)
        return abstract, shardings.replace(memory=jax.tree.map(lambda _: rows, abstract.memory))

    def corrupted(self, state: TrainState, batch: Batch) -> Batch:
        """The batch of `state.step` as the model will see it: what replay and the laws look at."""
        stage = self.stages[self.stage]
        progress = (state.step - stage.start) / (stage.stop - stage.start)
        return self._corrupt(batch, state.seed, CORRUPT, state.step, jnp.float32(progress))

    def corrupted_for_validation(self, batch: Batch) -> Batch:
        """A batch of a split as validation asks about it: the same whenever it is asked."""
        return self._corrupt(batch, jnp.uint32(self.experiment.seed), EVALUATE, jnp.int32(0), jnp.float32(1))

    def _corrupt(self, batch: Batch, seed: Array, stream: int, step: Array, progress: Array) -> Batch:
        context = CorruptContext(
            vocab=self.vocab,
            keys=example_keys(seed, stream, step, batch["index"]),
            fixed_keys=example_keys(seed, FIXED, jnp.int32(0), batch["index"]),
            step=step,
            progress=progress,
            parts=self.experiment.accumulation * partition.active_shards(),
        )
        return self.objective.corrupt(batch, context)

    def train_step(self, state: TrainState, batch: Batch, axis: str | None = None) -> tuple[TrainState, Metrics]:
        """One update. With `axis`, the batch is one device's share and sums are taken over that axis (pmap)."""
        e = self.experiment
        total = (lambda tree: jax.lax.psum(tree, axis)) if axis else (lambda tree: tree)
        batch = _with_memory(self.corrupted(state, batch), state.memory)
        # Weights of the whole batch come first: each microbatch's gradient is then a plain share of the sum.
        weights = total(self.objective.weights(batch, self.vocab))
        # Cheaper bits than the default generator's, which cost a third of a step on CPUs.
        key = jax.random.fold_in(jax.random.key(state.seed, impl="rbg"), DROPOUT)
        key = jax.random.fold_in(key, state.step)
        if axis:
            key = jax.random.fold_in(key, jax.lax.axis_index(axis))
        grads, losses, memory = self._accumulate(state.params, batch, weights, key)
        grads, losses = total(grads), total(losses)

        norm = optax.tree.norm(grads)
        direction, opt_state = self.tx.update(grads, state.opt_state, state.params)
        rate = state.hyper["learning_rate"] * e.optimizer.factor(state.step, e.steps)
        updates = self._of_this_stage(jax.tree.map(lambda d: -rate * d, direction))
        new = state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            opt_state=opt_state,
            memory=memory,
        )
        if e.ema is not None:
            new = new.replace(ema=optax.incremental_update(new.params, state.ema, 1 - e.ema))
        metrics = self.report(losses, weights) | {"learning_rate": (rate, 1.0)}
        metrics |= _norms("gradient", grads) | _norms("update", updates) | _norms("parameter", state.params)
        if state.guard is not None:
            new = self._guard(state, new, norm)
            metrics["skipped"] = (new.guard["skipped"], 1.0)
        return new, metrics

    def _of_this_stage(self, updates: PyTree) -> PyTree:
        """Zero for parameters that only other stages have: weight decay must not wear a head down before its turn."""
        if len(self.stages) == 1:
            return updates
        paths = {path for path, _ in jax.tree_util.tree_leaves_with_path(self._shape(self.net))}
        return jax.tree_util.tree_map_with_path(lambda path, u: u if path in paths else jnp.zeros_like(u), updates)

    def eval_step(
        self, state: tuple[PyTree, Memory | None], batch: Batch, axis: str | None = None
    ) -> tuple[Memory | None, Metrics]:
        """state: (params, memory of the batch before). The memory for the next batch, and sums with weights over this
        one."""
        params, memory = state
        batch = _with_memory(self.corrupted_for_validation(batch), memory)

        def sums(micro):
            weights = self.objective.weights(micro, self.vocab)
            losses = self.objective.losses(self.net, {"params": params}, micro, StepContext(self.vocab))
            terms = {f"loss/{name}": (total, weights[name]) for name, total in losses.totals.items()}
            return terms | losses.metrics, losses.memory

        if self.experiment.accumulation == 1:
            total, memory = sums(batch)
        else:  # what only fits in parts when training only fits in parts here
            total, memory = jax.lax.map(sums, self._microbatches(batch))
            total, memory = jax.tree.map(lambda x: x.sum(axis=0), total), _whole(memory)
        return memory, jax.lax.psum(total, axis) if axis else total

    def loss(self, terms: dict[str, float]) -> float:
        """What is minimised, from the mean of each term."""
        coefficients = self.objective.coefficients()
        return sum(coefficients.get(name, 1.0) * value for name, value in terms.items())

    def report(self, losses: Losses, weights: dict[str, Array]) -> Metrics:
        terms = {name: total / _positive(weights[name]) for name, total in losses.totals.items()}
        each = {f"loss/{name}": (losses.totals[name], weights[name]) for name in terms} if len(terms) > 1 else {}
        return {"loss": (self.loss(terms), 1.0)} | each | losses.metrics

    def _accumulate(
        self, params: PyTree, batch: Batch, weights: dict[str, Array], key: Array
    ) -> tuple[PyTree, Losses, Memory | None]:
        """Gradient of sum_k coefficient_k total_k / weight_k, the totals over all microbatches, and the memory."""

        def objective(params, micro, key):
            losses = self.objective.losses(self.net, {"params": params}, micro, StepContext(self.vocab, key))
            loss = self.loss({k: v / _positive(weights[k]) for k, v in losses.totals.items()})
            return loss, (losses.replace(memory=None), losses.memory)

        def gradient(*arguments):
            grads, (losses, memory) = jax.grad(objective, has_aux=True)(*arguments)
            return (grads, losses), memory

        count = self.experiment.accumulation
        if count == 1:
            (grads, losses), memory = gradient(params, batch, key)
            return grads, losses, memory
        micro = self._microbatches(batch)

        def add(carry, item):
            sums, memory = gradient(params, item[0], jax.random.fold_in(key, item[1]))
            return jax.tree.map(jnp.add, carry, sums), memory

        shape, _ = jax.eval_shape(gradient, params, jax.tree.map(lambda x: x[0], micro), key)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shape)
        (grads, losses), memory = jax.lax.scan(add, zeros, (micro, jnp.arange(count)))
        return grads, losses, _whole(memory)

    def _microbatches(self, batch: Batch) -> Batch:
        """[B, ...] -> [A, B / A, ...]. Microbatch i takes every A-th row: contiguous ones would change devices."""
        count = self.experiment.accumulation
        return jax.tree.map(lambda x: x.reshape((x.shape[0] // count, count) + x.shape[1:]).swapaxes(0, 1), batch)

    def _guard(self, old: TrainState, new: TrainState, norm: Array) -> TrainState:
        """`new`, or `old` with its step counted, where the gradient is not to be trusted."""
        running, finite = old.guard["norm"], jnp.isfinite(norm)
        limit = (self.experiment.skip_spikes or jnp.inf) * running
        bad = ~finite | ((running > 0) & (norm > limit))
        # A spike counts as the limit, so that norms that have risen for good are accepted in the end.
        seen = jnp.where(running > 0, 0.98 * running + 0.02 * jnp.minimum(norm, limit), norm)
        guard = {"norm": jnp.where(finite, seen, running), "skipped": old.guard["skipped"] + bad}
        learned = lambda state: state.replace(guard=None, memory=None)
        kept = jax.tree.map(lambda a, b: jnp.where(bad, a, b), learned(old), learned(new))
        return kept.replace(step=new.step, guard=guard, memory=new.memory)


def _with_memory(batch: Batch, memory: Memory | None) -> Batch:
    """The batch with what its rows start from: the memory, closed where the row before was not the one in the text."""
    if memory is None:
        return batch
    follows_B = (memory.index >= 0) & (batch["index"] == memory.index + 1)
    return batch | {"memory": memory.replace(open=memory.open & follows_B[:, None], index=batch["index"])}


def _whole(memory: Memory | None) -> Memory | None:
    """[A, B / A, ...] -> [B, ...], the inverse of `_microbatches`."""
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape((-1,) + x.shape[2:]), memory)


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
    """An experiment on this machine's devices: compiled steps, data and state.

    learner: of the last stage, whose question validation asks.
    """

    experiment: Experiment
    learner: Learner
    mesh: jax.sharding.Mesh
    pipeline: Pipeline
    abstract: PyTree  # TrainState of ShapeDtypeStructs with shardings
    shardings: PyTree
    _splits: dict[str, Pipeline] = dataclasses.field(default_factory=dict)
    _steps: dict[int, partition.CompiledStep] = dataclasses.field(default_factory=dict)

    @classmethod
    def open(cls, experiment: Experiment, devices: Sequence[jax.Device] | None = None) -> "Run":
        """Opens data and devices (None: all) and checks that everything fits; compiles nothing. Raises UserError."""
        mesh = partition.make_mesh(experiment.mesh, devices)
        experiment.check(mesh)
        pipeline = Pipeline(experiment.data, seed=experiment.seed, transforms=experiment.objective.transforms())
        learner = Learner(experiment, pipeline.vocab)
        abstract, shardings = learner.shardings(mesh)
        abstract = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)
        return cls(experiment, learner, mesh, pipeline, abstract, shardings)

    @property
    def shard(self) -> Shard:
        return Shard(*partition.process_part(self.mesh))

    def split(self, name: str) -> Pipeline:
        """A pass over a split of the prepared data, in order."""
        if name not in self._splits:
            e = self.experiment
            transforms = e.objective.transforms()
            self._splits[name] = Pipeline(e.data, name, seed=e.seed, shuffle=False, transforms=transforms)
        return self._splits[name]

    def init(self) -> TrainState:
        """A fresh state, made where it will live: no host holds all of it."""
        seed = np.uint32(self.experiment.seed)
        return jax.jit(self.learner.init_state, out_shardings=self.shardings)(seed)

    def learner_at(self, step: int) -> Learner:
        """Of the stage that trains step `step`, counted from 0."""
        stage = sum(step >= stage.start for stage in self.learner.stages) - 1
        last = stage == len(self.learner.stages) - 1
        return self.learner if last else dataclasses.replace(self.learner, stage=stage)

    def train_step(self, step: int) -> partition.CompiledStep:
        """What trains step `step`, counted from 0: one compiled step a stage."""
        learner = self.learner_at(step)
        if learner.stage not in self._steps:
            self._steps[learner.stage] = self._compile(learner.train_step, self.shardings, self.shardings)
        return self._steps[learner.stage]

    @functools.cached_property
    def eval_step(self) -> partition.CompiledStep:
        memory = self.shardings.memory
        return self._compile(self.learner.eval_step, (self.shardings.params, memory), memory, donate=False)

    def _compile(self, step, shardings, out, donate=True):
        config = self.experiment.mesh
        return partition.compile_step(step, self.mesh, config.rules, shardings, out, config.layout, donate)

    def restore_params(self, workdir: str | Path, step: int | None = None) -> PyTree:
        """What is evaluated of a run: the parameters of its last good checkpoint, or of `step`, or their average."""
        field = "params" if self.experiment.ema is None else "ema"
        abstract = self.abstract.params
        return restore_params(Path(workdir) / "checkpoints", abstract, step, only=tuple(abstract), field=field)

    def evaluate(self, params: PyTree, split: str = "validation", batches: int | None = None) -> dict[str, float]:
        """Means over a split of the prepared data, every row once: loss, perplexity, accuracy, bits a byte."""
        memory = jax.jit(self.learner.new_memory, out_shardings=self.shardings.memory)()
        passing = self.split(split).one_pass(batches, self.shard)
        scores = evaluate(self.eval_step, self.learner.loss, params, memory, passing)
        if "fill" in self.learner.objective.abilities() and "perplexity" in scores:
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
    run.split("validation")  # what would fail after the last step fails now
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
