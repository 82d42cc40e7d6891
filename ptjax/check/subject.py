"""What the laws look at: an experiment made small, and rows of random tokens. Needs no data."""

import dataclasses
import functools
from collections.abc import Callable, Iterable

import chz
import jax
import numpy as np

from ptjax.config import UserError
from ptjax.data.pipeline import Data
from ptjax.data.prepare import Corpus
from ptjax.data.tokenizers import VocabSpec
from ptjax.learner import Learner
from ptjax.objectives.base import Objective
from ptjax.optim import SGD, AdamW, Constant
from ptjax.partition import CompiledStep, MeshConfig, compile_step, make_mesh
from ptjax.train import Experiment
from ptjax.types import Hidden, PairInput, PyTree, TextInput, TrainState

ROWS, LENGTH = 16, 32
STEPS = 300  # of the longest law
SIZE = dict(layers=2, width=32, heads=8, hidden=64)
ONE = MeshConfig(data=1)  # one device, also where there are more
DESCENT = SGD(peak_lr=0.5, momentum=0.0, weight_decay=0.0, schedule=Constant(warmup=0))
ADAM = AdamW(peak_lr=1e-2, weight_decay=0.0, schedule=Constant(warmup=20))
# Few pieces, so that what a model can learn it learns in few steps.
PIECES = VocabSpec.synthetic(64)

Rows = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class RandomStream:
    """Random documents in memory, as a `Stream`: ordinary pieces, each as likely, and few unknown ones."""

    vocab: VocabSpec
    length: int
    tokens: np.ndarray

    @classmethod
    def make(cls, vocab: VocabSpec, length: int, rows: int, document: int, unknown: float = 0.0) -> "RandomStream":
        """document: tokens of the mean one. unknown: share of <unk>."""
        random = np.random.default_rng(0)
        ordinary = np.flatnonzero(vocab.ordinary)
        tokens = random.choice(ordinary, rows * length).astype(np.int32)
        tokens[random.random(tokens.shape) < unknown] = vocab.unk_id
        tokens[random.random(tokens.shape) < 1 / document] = vocab.boundary_id
        tokens[-1 if vocab.boundary_side == "end" else 0] = vocab.boundary_id
        return cls(vocab, length, tokens)

    @functools.cached_property
    def _bounds(self) -> np.ndarray:
        """int[documents + 1]: where each document begins, and where the last one ends."""
        places = np.flatnonzero(self.tokens == self.vocab.boundary_id)
        return np.append(0, places + 1) if self.vocab.boundary_side == "end" else np.append(places, len(self.tokens))

    @property
    def documents(self) -> int:
        return len(self._bounds) - 1

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.tokens[start:stop]

    def document_of(self, position: int) -> int:
        return int(np.searchsorted(self._bounds, position, side="right")) - 1

    def document(self, number: int) -> tuple[int, int]:
        return int(self._bounds[number]), int(self._bounds[number + 1])


def small(experiment: Experiment, full: bool = False) -> Experiment:
    """The experiment on short rows, by plain descent, with a small body. full: the body keeps its size.

    Only fields of `TextModelConfig` and dropouts are set; a body's `resized` and `for_rows` do the rest: any will do.
    Raises UserError where they do not go together.
    """
    length = fitting(experiment.objective, LENGTH)
    model = experiment.model
    # What the laws need of a body of any size.
    changes = {name: 0.0 for name in chz.chz_fields(model) if name.endswith("dropout")} | {"dtype": "float32"}
    try:
        if not full:
            model = model.resized(**SIZE).for_rows(length)
            changes |= dict(max_length=2 * length, unroll=False, remat="none")
        model = chz.replace(model, **changes)
    except ValueError as error:
        raise UserError(
            f"{type(model).__name__} cannot be made small ({error}): set its other sizes to suit layers=2, width=32, "
            "heads=8, hidden=64 on the command line, or use --full"
        ) from error
    order = "contiguous" if model.memory_length else "shuffled"
    steps = STEPS
    while steps < 64 * STEPS and min(s.stop - s.start for s in experiment.objective.stages(steps)) < STEPS:
        steps *= 2
    return Experiment(
        model=model,
        objective=experiment.objective,
        data=Data(corpus=Corpus(path="none"), length=length, batch_size=ROWS, order=order),
        optimizer=DESCENT,
        steps=steps,
        mesh=ONE,
    )


def fitting(objective: Objective, length: int) -> int:
    """`length`, or so many times its double that something is predicted in a row."""
    while sum(objective.predicted(length).values()) < 1 and length < 1024:
        length *= 2
    return length


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """An experiment that `small` has made, with what several laws ask of it, compiled once.

    pieces: the vocabulary that a tokenizer would give.
    """

    experiment: Experiment
    pieces: VocabSpec = PIECES

    @property
    def objective(self) -> Objective:
        return self.experiment.objective

    @property
    def length(self) -> int:
        return self.experiment.data.length

    @property
    def vocab(self) -> VocabSpec:
        return self.learner.vocab

    @functools.cached_property
    def learner(self) -> Learner:
        return Learner(self.experiment, self.pieces)

    @functools.cached_property
    def stages(self) -> tuple[Learner, ...]:
        """A learner for each stage of the run."""
        return tuple(dataclasses.replace(self.learner, stage=k) for k in range(len(self.learner.stages)))

    @functools.cached_property
    def parts(self) -> tuple["Subject", ...]:
        """The same with each of the objectives that this one is put together from, or this one alone."""
        parts = tuple(dict.fromkeys(self.objective.parts()))
        if parts == (self.objective,):
            return (self,)
        return tuple(Subject(chz.replace(self.experiment, objective=part), self.pieces) for part in parts)

    @functools.cached_property
    def short(self) -> "Subject":
        """The same on rows of a few tokens, in which a model soon finds what there is to find."""
        length = min(fitting(self.objective, 8), self.length)
        return Subject(chz.replace(self.experiment, data=chz.replace(self.experiment.data, length=length)), self.pieces)

    @functools.cached_property
    def without_auxiliary(self) -> "Subject | None":
        """The same with coefficients 0 of what its experts add to the loss; None for other such losses than theirs."""
        model = self.experiment.model
        if model.experts is None:
            return None
        model = chz.replace(model, experts=chz.replace(model.experts, balance=0.0, router_z=0.0))
        return Subject(chz.replace(self.experiment, model=model), self.pieces)

    # Rows.

    @functools.cached_property
    def _packed(self) -> RandomStream:
        return RandomStream.make(self.pieces, self.length, rows=ROWS * STEPS, document=10, unknown=0.02)

    @functools.cached_property
    def _ordinary(self) -> Callable[[int], RandomStream]:
        """Documents of four rows, for rows of each length."""
        return functools.cache(lambda length: RandomStream.make(self.pieces, length, ROWS * STEPS, 4 * length))

    def packed(self, step: int, texts: int = ROWS) -> Rows:
        """Rows of documents of about ten tokens, in the order of the text from step to step, with <unk> here and there
        and padding that differs from row to row. texts: how many of the rows differ."""
        rows = self._rows(self._packed, step)
        random = np.random.default_rng(step)
        stop_B = random.integers(self.length // 4, self.length + 1, ROWS)
        rows["tokens"][np.arange(self.length) >= stop_B[:, None]] = self.pieces.pad_id
        rows["tokens"] = rows["tokens"][np.arange(ROWS) % texts]
        return self._transformed(rows, self._packed, step)

    def ordinary(self, step: int, length: int | None = None) -> Rows:
        """Rows of nothing but ordinary tokens, each as likely at each place, never twice the same."""
        stream = self._ordinary(length or self.length)
        rows = self._rows(stream, step)
        boundary = rows["tokens"] == self.pieces.boundary_id
        ordinary = np.flatnonzero(self.pieces.ordinary)
        random = np.random.default_rng(step)
        rows["tokens"] = np.where(boundary, random.choice(ordinary, boundary.shape), rows["tokens"]).astype(np.int32)
        return self._transformed(rows, stream, step)

    def _rows(self, stream: RandomStream, step: int) -> Rows:
        index = np.arange(ROWS, dtype=np.int32) * STEPS + step % STEPS
        return {"index": index, "tokens": stream.tokens.reshape(-1, stream.length)[index]}

    def _transformed(self, rows: Rows, stream: RandomStream, step: int) -> Rows:
        for transform in self.objective.transforms():
            transform.check(stream)
            rows = transform(rows, stream, seed=0, step=step)
        return rows

    # Questions and answers, on one device.

    def corrupted(self, rows: Rows, step: int = 0, seed: int = 0, stage: int | None = None) -> PyTree:
        """The question about `rows`, as numpy arrays; `step` counts from the first of the stage (None: the last)."""
        stage = len(self.stages) - 1 if stage is None else stage
        start = self.learner.stages[stage].start
        return jax.device_get(self._corrupt(stage)(rows, np.uint32(seed), np.int32(start + step)))

    @functools.cached_property
    def _corrupt(self) -> Callable:
        @functools.cache
        def of_stage(stage: int) -> Callable:
            learner = self.stages[stage]
            return jax.jit(lambda rows, seed, step: learner.corrupted(TrainState(step, seed, {}, {}, {}), rows))

        return of_stage

    @functools.cached_property
    def inputs(self) -> Callable[[PyTree], TextInput | PairInput]:
        """What the body reads of a question."""
        compiled = jax.jit(lambda question: self.objective.inputs(question, self.vocab))
        return lambda question: jax.device_get(compiled(question))

    @functools.cached_property
    def hidden(self) -> Callable[[TextInput | PairInput], Hidden]:
        """What the body makes of it, with initial parameters."""
        apply = lambda params, inputs: self.learner.net.apply({"params": params}, inputs, method="hidden")
        compiled = jax.jit(lambda params, inputs: apply(params, inputs).replace(state=None))
        return lambda inputs: jax.device_get(compiled(self.params, inputs))

    @functools.cached_property
    def state(self) -> TrainState:
        """The initial one, as numpy arrays."""
        return jax.device_get(jax.jit(self.learner.init_state)(np.uint32(0)))

    @property
    def params(self) -> PyTree:
        return self.state.params

    # Training.

    def trained(self, learner: Learner, **changes) -> tuple[PyTree, dict[str, float]]:
        """(parameters, metrics) after the first two steps of the learner's stage, by plain descent. Raises UserError
        where the experiment does not go together with these changes."""
        start = np.int32(learner.stages[learner.stage].start)
        trainer = Trainer(chz.replace(self.experiment, **changes), self.pieces, self.state.replace(step=start))
        metrics = trainer.train((self.packed(step) for step in range(2)), learner.stage)
        return trainer.params, metrics

    @functools.cached_property
    def trained_alone(self) -> tuple[tuple[PyTree, dict[str, float]], ...]:
        """For each stage what one device comes to that takes the batch whole."""
        return tuple(self.trained(learner) for learner in self.stages)

    @functools.cached_property
    def adam(self) -> tuple["Scan", ...]:
        """For each stage what trains by AdamW, many steps in one call."""
        experiment = chz.replace(self.experiment, optimizer=ADAM)
        return tuple(Scan(Learner(experiment, self.pieces, stage.stage), self.params) for stage in self.stages)


class Trainer:
    """An experiment compiled for its mesh, without data: the laws give it batches.

    state: what it starts from, with any optimizer's moments that are as `init_state` makes them; None: a fresh one.
    """

    def __init__(self, experiment: Experiment, pieces: VocabSpec = PIECES, state: TrainState | None = None):
        mesh = make_mesh(experiment.mesh, jax.devices()[:1] if experiment.mesh == ONE else None)
        experiment.check(mesh)
        self.learner = Learner(experiment, pieces)
        _, shardings = self.learner.shardings(mesh)
        if state is None:
            self.state = jax.jit(self.learner.init_state, out_shardings=shardings)(np.uint32(experiment.seed))
        else:
            self.state = jax.device_put(state, shardings)
        layout = experiment.mesh.layout

        @functools.cache
        def step(stage: int) -> CompiledStep:
            learner = dataclasses.replace(self.learner, stage=stage)
            return compile_step(learner.train_step, mesh, experiment.mesh.rules, shardings, shardings, layout)

        self._step = step

    def train(self, batches: Iterable[Rows], stage: int = -1) -> dict[str, float]:
        """Takes a step on each batch; the metrics of the last one."""
        step = self._step(stage)
        for host in batches:
            self.state, metrics = step(self.state, step.place(host))
        return means(metrics)

    @property
    def params(self) -> PyTree:
        return jax.device_get(self.state.params)


class Scan:
    """Many steps in one call on one device."""

    CHUNK = 50

    def __init__(self, learner: Learner, params: PyTree):
        self.learner, self.params = learner, params
        self._run = jax.jit(lambda state, batches: jax.lax.scan(learner.train_step, state, batches))

    def start(self) -> TrainState:
        """The initial state, at the first step of the learner's stage."""
        shapes = jax.eval_shape(self.learner.init_state, jax.ShapeDtypeStruct((), np.uint32))
        zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)  # Adam's moments begin so
        stage, hyper = self.learner.stages[self.learner.stage], self.learner.experiment.optimizer.hyper()
        memory = self.learner.new_memory()
        return zeros.replace(params=self.params, hyper=hyper, memory=memory, step=np.int32(stage.start))

    def run(self, state: TrainState, batches: list[Rows]) -> tuple[TrainState, list[dict[str, float]]]:
        """Takes CHUNK steps; the metrics of each."""
        stacked = jax.tree.map(lambda *xs: np.stack(xs), *batches)
        state, metrics = self._run(state, stacked)
        metrics = jax.device_get(metrics)
        return state, [means(jax.tree.map(lambda x: x[i], metrics)) for i in range(len(batches))]


def means(metrics: PyTree) -> dict[str, float]:
    """Name -> sum / weight, where there is any weight."""
    pairs = jax.device_get(metrics).items()
    return {name: float(total) / float(weight) for name, (total, weight) in pairs if weight}


def distance(a: PyTree, b: PyTree) -> float:
    """Largest difference of two trees, relative to the largest value of the leaf; leaves that are nearly 0, such as a
    key's bias, whose gradient is rounding alone, as if they reached 1e-4."""
    gaps = jax.tree.map(lambda x, y: np.abs(x - y).max() / max(np.abs(x).max(), 1e-4), a, b)
    return max(jax.tree.leaves(gaps))
