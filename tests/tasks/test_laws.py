"""The laws of objectives, for tasks: one training on any layout, rows that only fill up, who sees whom."""

import dataclasses
import functools

import chz
import jax
import numpy as np
import pytest

from ptjax.check.subject import Trainer, distance
from ptjax.data.examples import Examples
from ptjax.data.pipeline import Data
from ptjax.data.prepare import Corpus
from ptjax.learner import Learner
from ptjax.optim import SGD, Constant
from ptjax.partition import MeshConfig
from ptjax.tasks import (
    LoRA,
    MultipleChoice,
    QuestionAnswering,
    SequenceClassification,
    SequenceRegression,
    Task,
    TokenClassification,
)
from ptjax.types import TrainState
from tests.contracts import cases

ROWS, LENGTH, CHOICES, VOCAB = 8, 16, 3, cases.VOCAB
COMMON = dict(name="tiny", examples=Examples(), dropout=0.0, attention="bidirectional", length=LENGTH)
POOLED = dict(pool="cls", pooler=True)
LABELS = ("a", "b", "c")
TASKS = {
    "sequence": SequenceClassification(labels=LABELS, **POOLED, **COMMON),
    "regression": SequenceRegression(center=0.0, spread=1.0, **POOLED, **COMMON),
    "token": TokenClassification(labels=LABELS, usual="a", stride=4, **COMMON),
    "question": QuestionAnswering(stride=4, unanswerable=True, **COMMON),
    "choice": MultipleChoice(**POOLED, **COMMON),
}
TASKS["causal"] = chz.replace(TASKS["sequence"], pool="last", pooler=False, attention="causal")
TASKS["mean"] = chz.replace(TASKS["sequence"], pool="mean", pooler=False)
TASKS["attention"] = chz.replace(TASKS["sequence"], pool="attention", pooler=False)
TASKS["adapted"] = chz.replace(TASKS["mean"], tuning=LoRA(rank=4, targets=("query", "output", "up")))
# Every kind of task, and for the first every kind of body and of pooling.
PAIRS = [
    *((name, "BERT") for name in ("sequence", "regression", "token", "question", "choice", "adapted")),
    ("causal", "GPT"),
    ("mean", "T5"),
    ("attention", "XLNet"),
]
SIZE = dict(layers=2, width=16, heads=4, hidden=32)
PLAIN = dict(unroll=False, remat="none", dropout=0.0, attention_dropout=0.0, max_length=LENGTH)
MESH = MeshConfig(data=2, fsdp=2, tensor=2)


@dataclasses.dataclass(frozen=True)
class Subject:
    """A task on a small body. Compiled once for all laws: compiling is what costs."""

    task: Task
    body: str

    @classmethod
    @functools.cache
    def of(cls, task: str, body: str) -> "Subject":
        return cls(TASKS[task], body)

    @functools.cached_property
    def experiment(self):
        return cases.experiment(
            self.task,
            chz.replace(cases.SHIPPED_BODIES[self.body].resized(**SIZE), **PLAIN),
            data=Data(corpus=Corpus(path="unused"), length=LENGTH, batch_size=ROWS),
            optimizer=SGD(peak_lr=0.05, momentum=0.9, weight_decay=0.0, schedule=Constant(warmup=0)),
            steps=1000,
        )

    @functools.cached_property
    def learner(self) -> Learner:
        return Learner(self.experiment, VOCAB)

    @functools.cached_property
    def state(self) -> TrainState:
        """A first one, without compiling `init_state`: adapters change something already."""
        random = np.random.default_rng(0)
        draw = lambda path, x: random.normal(path[-1].key == "scale", 0.1, x.shape).astype(x.dtype)  # noqa: E731
        shape = jax.eval_shape(self.learner.init_state, jax.ShapeDtypeStruct((), np.uint32))
        state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shape)
        params = jax.tree_util.tree_map_with_path(draw, shape.params)
        return state.replace(params=params, hyper=jax.device_get(self.experiment.optimizer.hyper()))

    @functools.cached_property
    def one_device(self) -> Trainer:
        return Trainer(self.experiment, VOCAB, self.state)

    def trained(self, batches, trainer: Trainer | None = None):
        """(parameters, metrics of the last step) of training from the first state."""
        trainer = trainer or self.one_device
        trainer.state = jax.device_put(self.state, jax.tree.map(lambda x: x.sharding, trainer.state))
        metrics = trainer.train(batches)
        return trainer.params, metrics

    def batch(self, seed: int = 0) -> dict[str, np.ndarray]:
        """Random rows of random sizes, the last two of which only fill up."""
        random = np.random.default_rng(seed)
        choice = isinstance(self.task, MultipleChoice)
        shape = (ROWS, CHOICES) if choice else (ROWS,)
        size = random.integers(6, LENGTH - 1, shape).astype(np.int32)
        if choice:
            size[::3, -1] = 0
        inside = np.arange(LENGTH) < size[..., None]
        batch = {
            "index": np.arange(ROWS, dtype=np.int32),
            "tokens": random.integers(7, VOCAB.size, (*shape, LENGTH)).astype(np.int32),
            "types": np.where(inside, random.integers(0, 2, (*shape, LENGTH)), 0).astype(np.int32),
            "size": size.max(axis=1) if choice else size,
            "label": random.integers(0, 2, ROWS).astype(np.int32),
        }
        if choice:
            batch["choice_size"] = size
        if isinstance(self.task, SequenceRegression):
            batch["label"] = random.normal(size=ROWS).astype(np.float32)
        if isinstance(self.task, TokenClassification):
            known = inside & (random.random(inside.shape) < 0.5)
            batch["label"] = np.where(known, random.integers(0, 3, inside.shape), -1).astype(np.int32)
            batch["word"] = np.where(known, np.cumsum(known, axis=1) - 1, -1).astype(np.int32)
        if isinstance(self.task, QuestionAnswering):
            batch["piece"] = np.where(inside, np.maximum(np.arange(LENGTH) - 2, 0), 0).astype(np.int32)
            batch["start"] = np.where(batch["label"] == 0, -1, random.integers(3, 5, ROWS)).astype(np.int32)
            batch["end"] = np.where(batch["label"] == 0, -1, batch["start"] + 1).astype(np.int32)
        batch["index"][-2:] = -1
        return batch


def laws(*but: str):
    """For each of PAIRS but those of the tasks whose code another pair runs as well."""
    pairs = [pair for pair in PAIRS if pair[0] not in but]
    return pytest.mark.parametrize("subject", [Subject.of(*pair) for pair in pairs], ids=["-".join(p) for p in pairs])


def same(a, b) -> bool:
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, a, b)))


@laws("regression", "attention", "sequence")
def test_training_is_the_same_on_any_layout(subject):
    """On a mesh that divides rows, parameters and heads, and in microbatches of unequal weights."""
    batches = [subject.batch(step) for step in range(2)]
    expected, metrics = subject.trained(batches)
    divided = Trainer(chz.replace(subject.experiment, mesh=MESH, accumulation=2), VOCAB, subject.state)
    params, others = subject.trained(batches, divided)
    assert distance(expected, subject.state.params) > 1e-3
    assert distance(expected, params) < 2e-5
    assert metrics.keys() == others.keys() and all(abs(metrics[k] - others[k]) < 1e-4 for k in metrics), (
        metrics,
        others,
    )


@laws()
def test_one_batch_is_learned_by_heart(subject):
    _, first = subject.trained([subject.batch()])
    _, last = subject.trained([subject.batch()] * 100)
    assert last["loss"] < 0.2 * first["loss"], (first["loss"], last["loss"])


@laws()
def test_what_fills_up_changes_nothing(subject):
    """Rows of index -1 and tokens behind a row's size: bitwise, in all parameters and the loss."""
    batch, other = subject.batch(), subject.batch(1)
    expected, metrics = subject.trained([batch])
    filler = batch["index"] < 0
    filled = {name: np.where(_along(filler, x), other[name], x) for name, x in batch.items() if name != "index"}
    size = batch.get("choice_size", batch["size"])
    behind = (np.arange(LENGTH) >= size[..., None]) & ~_along(filler, batch["tokens"])
    for name in ("tokens", "types"):
        filled[name] = np.where(behind, 1 - batch["types"] if name == "types" else other[name], filled[name])
    filled["index"] = batch["index"]
    assert (filled["tokens"] != batch["tokens"]).sum() > 30
    params, others = subject.trained([filled])
    assert same(expected, params) and metrics["loss"] == others["loss"]
    filled["tokens"][0, ..., 1] = filled["tokens"][0, ..., 2]  # a token that is read
    assert not same(expected, subject.trained([filled])[0])


def _along(rows: np.ndarray, x: np.ndarray) -> np.ndarray:
    return rows.reshape(-1, *[1] * (x.ndim - 1))


def test_a_seed_says_which_parameters():
    init = jax.jit(Subject.of("adapted", "BERT").learner.init_state)
    one, again, other = (jax.device_get(init(np.uint32(seed)).params) for seed in (0, 0, 1))
    assert same(one, again)
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), one, other)
    assert moved["body"]["embed"]["tokens"] and moved["classifier"]["kernel"]
    assert any(jax.tree.leaves(moved["adapter"]))


@pytest.mark.parametrize("body", ["GPT", "BERT"])
def test_attention_is_as_the_task_says(body):
    """Causal: no token sees a later one, whatever the body's pre-training was. Otherwise all see all."""
    task = TASKS["token"]
    subject = Subject(task, body)
    net, params = subject.task.net(subject.experiment.model, VOCAB), subject.state.params
    batch = subject.batch()
    other = batch | {"tokens": batch["tokens"].copy()}
    other["tokens"][:, 3] = np.where(batch["tokens"][:, 3] == 9, 10, 9)

    @jax.jit
    def answers(params, batch):
        tasks = {name: chz.replace(task, attention=name) for name in ("causal", "bidirectional")}
        inputs = {name: task.inputs(batch, VOCAB) for name, task in tasks.items()}
        return {name: net.apply({"params": params}, x, method="answer") for name, x in inputs.items()}

    one, two = jax.device_get((answers(params, batch), answers(params, other)))
    moved = {name: np.abs(one[name] - two[name]).max(axis=(0, 2)) for name in one}
    assert (moved["causal"][:3] == 0).all() and (moved["causal"][3:6] > 0).all()
    assert (moved["bidirectional"][:6] > 0).all()
