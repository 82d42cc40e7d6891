"""Transformer-XL's memory: carried over steps on contiguous rows, within documents, and resumed exactly."""

import functools

import chz
import jax
import numpy as np
import pytest

from ptjax.config import UserError
from ptjax.data.pipeline import Data, batch_at
from ptjax.logging import read_metrics
from ptjax.models import GPT, TransformerXL
from ptjax.objectives import CausalLM
from ptjax.partition import MeshConfig
from ptjax.train import Checkpointing, Run, train

from ..small import SIZE, experiment, rewound, same
from . import cases

MODEL = TransformerXL(**SIZE, memory=24)


def carrying(corpus, **changes):
    data = Data(corpus=corpus, length=32, batch_size=8, order="contiguous")
    checkpoint = Checkpointing(every=3, minutes=None, keep=9, best=None)
    settings = dict(model=MODEL, objective=CausalLM(), data=data, checkpoint=checkpoint, mesh=MeshConfig(data=2))
    return experiment(corpus, **settings | changes)


@pytest.fixture(scope="module")
def ran(tiny_corpus, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("memory")
    run = Run.open(carrying(tiny_corpus), jax.devices()[:2])
    return run, *train(run, workdir), workdir


@pytest.mark.parametrize("step", [3, 9])
def test_resumes_with_its_memory(ran, step, tmp_path):
    run, state, _, workdir = ran
    again, _ = train(run, rewound(workdir, step, tmp_path / "run"))
    assert same(state, again)
    assert int(state.memory.index[0]) == batch_at(run.pipeline, 9)["index"][0]


def test_memory_is_what_the_row_before_left(ran):
    """The second of two rows, with the memory that the first left, is the end of one row of both."""
    run, _, _, _ = ran
    learner, params = run.learner, jax.device_get(run.init().params)
    objective, vocab = learner.objective, learner.vocab
    tokens = np.random.default_rng(0).integers(7, vocab.size, (2, 48)).astype(np.int32)

    @jax.jit
    def read(params, tokens, memory):
        inputs = objective.inputs({"tokens": tokens}, vocab)
        return learner.net.apply({"params": params}, inputs, memory, method="hidden")

    hidden = functools.partial(read, params)
    empty = jax.tree.map(lambda x: x[:2], learner.new_memory())
    whole = hidden(tokens, None).last[:, 24:]
    left = hidden(tokens[:, :24], empty).state
    assert left.open.all()
    np.testing.assert_allclose(hidden(tokens[:, 24:], left).last, whole, atol=1e-5)
    assert np.abs(hidden(tokens[:, 24:], empty).last - whole).max() > 1e-3


def test_a_row_that_does_not_follow_starts_anew(ran):
    """Its memory is of another place in the text: the loss is that of an empty one."""
    run, state, _, _ = ran
    evaluated = lambda index, memory: jax.device_get(
        run.eval_step((state.params, memory), run.eval_step.place({"index": index, "tokens": tokens}))[1]["nll"]
    )
    tokens = batch_at(run.pipeline, 10)["tokens"]
    follows = np.asarray(state.memory.index) + 1
    empty = run.init().memory
    read = evaluated(follows, state.memory)
    assert read[0] != evaluated(follows, empty)[0]
    assert evaluated(follows + 1, state.memory)[0] == evaluated(follows, empty)[0]


def test_layouts(tiny_corpus, ran):
    """Accumulation and a mesh carry the same memory."""
    run, _, _, workdir = ran
    losses = [line["loss"] for line in read_metrics(workdir, "train")]
    other = Run.open(carrying(tiny_corpus, accumulation=2, mesh=MeshConfig(data=2, fsdp=2, tensor=2)))
    state = other.init()
    for step in range(4):
        compiled = other.train_step(step)
        state, metrics = compiled(state, compiled.place(batch_at(other.pipeline, step)))
        assert float(metrics["loss"][0]) == pytest.approx(losses[step], rel=2e-5)
    memory = jax.device_get(state.memory)
    assert memory.open.any() and not np.array_equal(memory.hidden[0], memory.hidden[1])


def test_validation_carries_too(ran):
    """In lanes, from an empty memory, each row once: as one long pass by hand."""
    run, state, scores, _ = ran
    memory, total, weight = run.init().memory, 0.0, 0.0
    for batch in run.split("validation").one_pass(run.experiment.evaluation.batches):
        memory, metrics = run.eval_step((state.params, memory), run.eval_step.place(batch))
        total, weight = total + float(metrics["nll"][0]), weight + float(metrics["nll"][1])
    assert scores["nll"] == pytest.approx(total / weight, rel=1e-6)
    assert np.asarray(memory.open).any()


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(objective=cases.OBJECTIVES["mlm"]), "MLM does not carry a memory.*model.memory=0, or choose CausalLM"),
        (dict(data="shuffled"), "set data.order=contiguous"),
        (dict(mesh=MeshConfig(layout="pmap")), "set mesh.layout=jit"),
    ],
)
def test_what_cannot_carry_says_so(tiny_corpus, changes, message):
    e = carrying(tiny_corpus)
    if "data" in changes:
        changes = dict(data=chz.replace(e.data, order="shuffled"))
    with pytest.raises(UserError, match=message):
        Run.open(chz.replace(e, **changes), jax.devices()[:2] if "mesh" not in changes else None)


def test_a_body_without_memory_takes_contiguous_rows(tiny_corpus, tmp_path):
    """The control of every comparison: the same rows, nothing carried."""
    e = carrying(tiny_corpus, model=GPT(**SIZE), steps=2)
    state, _ = train(Run.open(e, jax.devices()[:2]), tmp_path)
    assert state.memory is None


def test_a_skipped_step_leaves_no_poison(tiny_corpus):
    """What is not finite in a memory would come back in every later row: it is emptied with the skipped step."""
    run = Run.open(carrying(tiny_corpus, skip_non_finite=True, mesh=MeshConfig()), jax.devices()[:1])
    state, losses = run.init(), []
    for step in range(4):
        if step == 2:
            bad = jax.tree.map(lambda x: x * np.nan, state.memory.hidden)
            state = state.replace(memory=state.memory.replace(hidden=bad))
        compiled = run.train_step(step)
        state, metrics = compiled(state, compiled.place(batch_at(run.pipeline, step)))
        losses.append(float(metrics["loss"][0]))
    assert np.isfinite(losses).tolist() == [True, True, False, True]
    assert int(state.guard["skipped"]) == 1 and np.isfinite(state.memory.hidden).all()
