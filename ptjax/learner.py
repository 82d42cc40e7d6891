"""The pure training step: initial state, update and validation, as functions without arrays of their own."""

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import optax

from ptjax import partition
from ptjax.data.tokenizers import VocabSpec
from ptjax.models.heads import init, new_memory, shapes
from ptjax.objectives.base import CorruptContext, Objective, Stage, StepContext, means
from ptjax.types import Array, Batch, Losses, Memory, Metrics, PyTree, TrainState

if TYPE_CHECKING:
    from ptjax.train import Experiment

# One stream of random keys for each use, so that none can follow from another.
INIT, CORRUPT, DROPOUT, EVALUATE, FIXED = range(5)


def example_keys(seed: Array, stream: int, step: Array, index_B: Array) -> Array:
    """[B] random keys, each a function of (seed, step, example) alone, whatever the mesh and the batch."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), stream), step)
    return jax.vmap(lambda index: jax.random.fold_in(key, index))(index_B.astype(jnp.uint32))


@dataclasses.dataclass(frozen=True, eq=False)
class Learner:
    """The pure functions of an experiment in one of its stages: initial state, training step, evaluation step.

    pieces: the tokenizer's vocabulary. stage: which one trains; the last one asks in validation. Holds no arrays.
    """

    experiment: "Experiment"
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

    @property
    def params_shape(self) -> PyTree:
        return self._shapes[0]

    @property
    def logical_axes(self) -> PyTree:
        """The tree of params with a tuple of axis names (or None) at each leaf."""
        return self._shapes[1]

    @functools.cached_property
    def _shapes(self) -> tuple[PyTree, PyTree]:
        return shapes(self.whole_net, self.experiment.data.length)

    def init_state(self, seed: Array, begin: Callable[[PyTree], PyTree] = lambda fresh: fresh) -> TrainState:
        """The state before the first step. seed: u32[]. begin: the parameters, given fresh ones."""
        key = jax.random.fold_in(jax.random.key(seed), INIT)
        return self._first_state(seed, begin(init(self.whole_net, key, self.experiment.data.length)))

    def _first_state(self, seed: Array, params: PyTree) -> TrainState:
        e, guard = self.experiment, None
        if e.skip_non_finite or e.skip_spikes:
            guard = {"norm": jnp.zeros((), jnp.float32), "skipped": jnp.zeros((), jnp.int32)}
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            seed=jnp.asarray(seed, jnp.uint32),
            hyper=e.optimizer.hyper(),
            params=params,
            opt_state=self._tx(params).init(params),
            # A copy: two leaves that share a buffer cannot both be donated.
            ema=None if e.ema is None else jax.tree.map(jnp.copy, params),
            guard=guard,
            memory=self.new_memory(),
        )

    def _tx(self, params: PyTree) -> optax.GradientTransformation:
        """params: their shapes are what is looked at."""
        tx, learns = self.experiment.optimizer.transform(params), self._learns(params)
        if all(jax.tree.leaves(learns)):
            return tx
        frozen = jax.tree.map(lambda x: not x, learns)
        return optax.chain(optax.masked(tx, learns), optax.masked(optax.set_to_zero(), frozen))

    def _learns(self, params: PyTree) -> PyTree:
        """A tree of bools: which leaves are not frozen."""
        learns = self.experiment.objective.learns
        return jax.tree_util.tree_map_with_path(lambda path, _: learns(tuple(key.key for key in path)), params)

    def new_memory(self) -> Memory | None:
        """What the first batch of a pass starts from."""
        return new_memory(self.experiment.model, self.experiment.data.batch_size)

    def shardings(self, mesh: jax.sharding.Mesh) -> tuple[PyTree, PyTree]:
        """(abstract TrainState, its shardings), from shapes alone."""
        abstract = jax.eval_shape(self._first_state, jax.ShapeDtypeStruct((), jnp.uint32), self.params_shape)
        rules = self.experiment.mesh.rules
        shardings = partition.state_shardings(abstract.replace(memory=None), self.logical_axes, mesh, rules)
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
        key = jax.random.fold_in(jax.random.key(state.seed), DROPOUT)
        key = jax.random.fold_in(key, state.step)
        if axis:
            key = jax.random.fold_in(key, jax.lax.axis_index(axis))
        parts = e.accumulation * total(1)
        grads, losses, memory = self._accumulate(state.params, batch, weights, key, parts)
        grads, losses = total(grads), total(losses)

        norm = optax.tree.norm(grads)
        direction, opt_state = self._tx(state.params).update(grads, state.opt_state, state.params)
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
        own, _ = shapes(self.net, self.experiment.data.length)
        paths = {path for path, _ in jax.tree_util.tree_leaves_with_path(own)}
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
            losses, _ = self._losses(params, micro)
            terms = {f"loss/{name}": (total, weights[name]) for name, total in losses.totals.items()}
            return terms | losses.metrics, losses.memory

        if self.experiment.accumulation == 1:
            total, memory = sums(batch)
        else:  # what only fits in parts when training only fits in parts here
            total, memory = jax.lax.map(sums, partition.dealt(batch, self.experiment.accumulation))
            total, memory = jax.tree.map(lambda x: x.sum(axis=0), total), partition.collected(memory)
        return memory, jax.lax.psum(total, axis) if axis else total

    def report(self, losses: Losses, weights: dict[str, Array]) -> Metrics:
        terms = means(losses.totals, weights)
        each = {f"loss/{name}": (losses.totals[name], weights[name]) for name in terms} if len(terms) > 1 else {}
        return {"loss": (self.objective.minimised(terms), 1.0)} | each | losses.metrics

    def _losses(self, params: PyTree, batch: Batch, key: Array | None = None) -> tuple[Losses, dict[str, Array]]:
        """The objective's answer, with what the body's layers sow (`StepContext.auxiliary`) shown among its metrics;
        and that by itself."""
        context = StepContext(self.vocab, key)
        losses = self.objective.losses(self.net, {"params": params}, batch, context)
        sown = context.auxiliary()
        shown = {f"auxiliary/{name}": (value, jnp.ones(())) for name, value in sown.items()}
        return losses.replace(metrics=losses.metrics | shown), sown

    def _accumulate(
        self, params: PyTree, batch: Batch, weights: dict[str, Array], key: Array, parts: int
    ) -> tuple[PyTree, Losses, Memory | None]:
        """Gradient of sum_k coefficient_k total_k / weight_k and of the body's auxiliary losses, the totals over all
        microbatches, and the memory. parts: into how many microbatches, over all devices of a pmap, the batch falls."""
        coefficients = self.experiment.model.auxiliary

        learns = self._learns(params)

        def objective(params, micro, key):
            params = jax.tree.map(lambda x, free: x if free else jax.lax.stop_gradient(x), params, learns)
            losses, sown = self._losses(params, micro, key)
            loss = self.objective.minimised(means(losses.totals, weights))
            for name, coefficient in coefficients.items():
                if name in sown:  # no sum over examples, and so no total: the mean of the microbatches' own counts
                    loss += coefficient * sown[name] / parts
            return loss, (losses.replace(memory=None), losses.memory)

        def gradient(*arguments):
            grads, (losses, memory) = jax.grad(objective, has_aux=True)(*arguments)
            return (grads, losses), memory

        count = self.experiment.accumulation
        if count == 1:
            (grads, losses), memory = gradient(params, batch, key)
            return grads, losses, memory
        micro = partition.dealt(batch, count)

        def add(carry, item):
            sums, memory = gradient(params, item[0], jax.random.fold_in(key, item[1]))
            return jax.tree.map(jnp.add, carry, sums), memory

        shape, _ = jax.eval_shape(gradient, params, jax.tree.map(lambda x: x[0], micro), key)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shape)
        (grads, losses), memory = jax.lax.scan(add, zeros, (micro, jnp.arange(count)))
        return grads, losses, partition.collected(memory)

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
        return kept.replace(step=new.step, guard=guard, memory=_emptied(new.memory, ~finite))


def _with_memory(batch: Batch, memory: Memory | None) -> Batch:
    """The batch with what its rows start from: the memory, closed where the row before was not the one in the text."""
    if memory is None:
        return batch
    follows_B = (memory.index >= 0) & (batch["index"] == memory.index + 1)
    return batch | {"memory": memory.replace(open=memory.open & follows_B[:, None], index=batch["index"])}


def _emptied(memory: Memory | None, where: Array) -> Memory | None:
    """What is not finite would stay so: even positions that nothing sees are multiplied by 0."""
    return memory and memory.replace(hidden=jnp.where(where, 0, memory.hidden), open=memory.open & ~where)


def _norms(kind: str, tree: PyTree) -> Metrics:
    """Global norm, and that of each module: body.embed, body.layers, head, ..."""
    parts = {"": tree} | {f"/{name}": part for name, part in tree.items() if name != "body"}
    parts |= {f"/body.{name}": part for name, part in tree["body"].items()}
    return {f"{kind}_norm{name}": (optax.tree.norm(part), 1.0) for name, part in parts.items() if jax.tree.leaves(part)}
