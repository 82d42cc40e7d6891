"""NSP and SOP: what is hidden of a pair, what the question costs, and that it can be learned."""

import functools

import chz
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptjax.data.transforms import SentencePairs
from ptjax.models.heads import init
from ptjax.objectives import MLM, NSP, SOP, Mixed, Part
from ptjax.objectives.base import CorruptContext, StepContext
from ptjax.optim import AdamW, Constant
from tests.contracts import cases
from tests.streams import Text

VOCAB, LENGTH = cases.VOCAB, 32
OBJECTIVES = {"nsp": NSP(rate=0.2), "sop": SOP(rate=0.2)}


@functools.cache
def text(kind: str = "ragged") -> Text:
    random = np.random.default_rng(0)
    ordinary = np.arange(7, VOCAB.size)
    if kind == "topics":  # each has words of its own, one of two sets: another document is of the other topic
        return Text.join([random.choice(np.arange(10, 20) + 10 * n, 2000) for n in range(2)], LENGTH, VOCAB)
    if kind == "rising":  # from word to word upwards
        return Text.join([np.arange(10, 40)] * 100, LENGTH - 1, VOCAB)
    sizes = [5000, 5000] if kind == "long" else random.integers(1, 50, 200)
    return Text.join([random.choice(ordinary, size) for size in sizes], LENGTH, VOCAB)


def pairs(name: str, kind: str = "ragged", rows=range(16), step: int = 0) -> dict[str, np.ndarray]:
    stream = text(kind)
    (transform,) = OBJECTIVES[name].transforms()
    return transform(stream.batch(np.array(rows)), stream, 0, step)


@functools.cache
def poser(name: str):
    def pose(batch):
        keys = jax.vmap(jax.random.key)(batch["index"])
        return OBJECTIVES[name].corrupt(batch, CorruptContext(VOCAB, keys, keys, jnp.int32(0), jnp.float32(0)))

    return jax.jit(pose)


def test_an_objective_names_its_question():
    assert NSP().transforms() == (SentencePairs("next"),) and SOP().transforms() == (SentencePairs("order"),)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_hides_tokens_of_the_pair_as_mlm_does(name):
    objective, batch, kind = OBJECTIVES[name], pairs(name, rows=[*range(15), -1]), OBJECTIVES[name].kind
    question = jax.device_get(poser(name)(batch))
    assert np.array_equal(question["original"], batch[f"{kind}_tokens"])
    special = np.isin(batch[f"{kind}_tokens"], VOCAB.special_ids)
    assert np.array_equal(question["tokens"][special], batch[f"{kind}_tokens"][special])
    hidden = np.zeros_like(special)
    for i, (places, weights) in enumerate(zip(question["positions"], question["weights"])):
        hidden[i, places[weights > 0]] = True
    assert not (hidden & special).any()
    assert hidden.sum(axis=1).tolist() == [round(0.2 * n) for n in (~special).sum(axis=1)]
    assert (question["tokens"] == batch[f"{kind}_tokens"])[~hidden].all()
    weights = objective.weights(question, VOCAB)
    assert set(weights) == {"mlm", name} and weights["mlm"] == hidden.sum()
    assert 10 < weights[name] == batch[f"{kind}_weight"].sum() < 16
    inputs = objective.inputs(question, VOCAB)
    assert np.array_equal(inputs.types, batch[f"{kind}_types"]) and np.array_equal(inputs.tokens, question["tokens"])
    assert (inputs.positions == np.arange(LENGTH)).all() and not inputs.mask.causal and inputs.mask.segments is None
    assert np.array_equal(inputs.mask.valid, batch[f"{kind}_tokens"] != VOCAB.pad_id)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_predicted_is_what_a_full_row_asks_for(name):
    rows = [row for row in range(2, 300) if row != 156]  # not where a document ends
    question = poser(name)(pairs(name, "long", rows[:256]))
    expected = OBJECTIVES[name].predicted(LENGTH)
    got = {term: float(weight) / 256 for term, weight in OBJECTIVES[name].weights(question, VOCAB).items()}
    assert got == expected == {"mlm": MLM(rate=0.2).predicted(LENGTH - 3)["mlm"], name: 1}
    assert question["positions"].shape[1] == OBJECTIVES[name].projected(LENGTH)


class Scripted:
    """A net that answers what it was told."""

    def __init__(self, logits_B2, width=8):
        random = np.random.default_rng(1)
        self.logits_B2, self.table = logits_B2, random.normal(size=(VOCAB.size, width)).astype(np.float32)
        self.last = random.normal(size=(len(logits_B2), LENGTH, width)).astype(np.float32)

    def apply(self, variables, x, *, method, **_):
        if method == "hidden":
            return type("Hidden", (), {"last": jnp.asarray(self.last), "state": None}), {}
        if method == "scores":
            return x, jnp.asarray(self.table), None
        assert method == "answer" and np.array_equal(x, self.last)
        return jnp.asarray(self.logits_B2)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_loss_is_written_out(name):
    question, kind = poser(name)(pairs(name, rows=[*range(15), -1])), OBJECTIVES[name].kind
    logits = np.random.default_rng(2).normal(size=(16, 2)).astype(np.float32)
    net = Scripted(logits)
    losses = OBJECTIVES[name].losses(net, {}, question, StepContext(VOCAB))
    plain = MLM(rate=0.2).losses(net, {}, question, StepContext(VOCAB))
    assert losses.totals["mlm"] == plain.totals["mlm"] and set(losses.totals) == {"mlm", name}
    total, correct, count = 0.0, 0, 0
    for (no, yes), label, weight in zip(logits, question[f"{kind}_label"], question[f"{kind}_weight"]):
        if weight:
            total += np.log(np.exp(no) + np.exp(yes)) - (yes if label else no)
            correct, count = correct + ((yes > no) == bool(label)), count + 1
    np.testing.assert_allclose(losses.totals[name], total, rtol=1e-5)
    assert tuple(map(float, losses.metrics[f"{name}_accuracy"])) == (correct, count)
    assert losses.metrics.keys() == plain.metrics.keys() | {f"{name}_accuracy"}


def test_both_in_one_run():
    """Each has its own pairs of the same rows."""
    mixed = Mixed(mixture=tuple(Part(objective=objective) for objective in OBJECTIVES.values()))
    batch, stream = text().batch(np.arange(16)), text()
    for transform in mixed.transforms():
        batch = transform(batch, stream, 0, 0)

    @jax.jit
    def corrupted(batch):
        keys = jax.vmap(jax.random.key)(batch["index"])
        return mixed.corrupt(batch, CorruptContext(VOCAB, keys, keys, jnp.int32(0), jnp.float32(0)))

    parts = jax.device_get(corrupted(batch))
    seen = 0
    for name, objective in OBJECTIVES.items():
        part, alone = parts[name.upper()], pairs(name)
        for index, original, label in zip(part["index"], part["original"], part[f"{objective.kind}_label"]):
            own = alone["index"] == index
            expected = alone[f"{objective.kind}_tokens"][own][0] if own.any() else np.full(LENGTH, VOCAB.pad_id)
            assert np.array_equal(original, expected) and label == alone[f"{objective.kind}_label"][own].sum()
            seen += own.sum()
    assert seen == 16


def test_the_two_questions_have_heads_of_their_own():
    shapes = {}
    for name, objective in OBJECTIVES.items() | {("mlm", MLM())}:
        net = objective.net(cases.BODIES["gpt"], VOCAB)
        shapes[name] = jax.tree.map(jnp.shape, jax.eval_shape(lambda: init(net, jax.random.key(0), LENGTH)))
    pooler = {"dense": {"kernel": (32, 32), "bias": (32,)}}
    answer = {"kernel": (32, 2), "bias": (2,)}
    assert shapes["nsp"] == shapes["mlm"] | {"pooler": pooler, "next_sentence": answer}
    assert shapes["sop"] == shapes["mlm"] | {"pooler": pooler, "sentence_order": answer}


@pytest.mark.parametrize("name, kind, body", [("nsp", "topics", "bert"), ("sop", "rising", "gpt")])
def test_a_question_that_can_be_answered_is_learned(name, kind, body):
    optimizer = AdamW(peak_lr=5e-3, weight_decay=0.0, schedule=Constant(warmup=20))
    body = chz.replace(cases.BODIES[body], std=0.2)  # so narrow a body is slow to tell tokens apart from 0.02
    trainer = cases.Trainer(cases.experiment(OBJECTIVES[name], body, optimizer=optimizer))
    rows, random, accuracy = len(text(kind).tokens) // text(kind).length, np.random.default_rng(0), []
    for step in range(150):
        batch = pairs(name, kind, random.integers(0, rows, 16), step)
        accuracy.append(trainer.train([batch])[f"{name}_accuracy"])
    assert np.mean(accuracy[:25]) < 0.7 and np.mean(accuracy[-25:]) > 0.9
