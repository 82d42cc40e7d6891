"""Multiple choice: rows of choices, their scores, and what is predicted."""

import chz
import jax
import numpy as np
import pytest

from ptjax.config import UserError
from ptjax.data.examples import Examples
from ptjax.data.tokenizers import open_tokenizer
from ptjax.models.heads import init
from ptjax.objectives.base import StepContext
from ptjax.tasks import MultipleChoice
from tests.contracts import cases

TASK = MultipleChoice(
    name="tiny",
    examples=Examples(),
    length=24,
    pool="mean",
    pooler=False,
    attention="bidirectional",
    dropout=0.0,
)
EXAMPLES = [
    {"id": "a", "text": "The value of it is", "choices": ["a statement", "so", "an object in this module"], "label": 2},
    {"id": "b", "text": "Is it?", "choices": ["It is.", "No"], "label": 0},
    {"id": "c", "text": "one two three four " * 9, "choices": ["five", "six " * 30, "seven", "eight"], "label": 3},
]


@pytest.fixture(scope="module")
def tokenizer(tiny_corpus):
    return open_tokenizer(tiny_corpus.path)


def test_each_choice_stands_in_a_row_behind_the_text(tokenizer):
    encoded = chz.replace(TASK, length=40).encode(EXAMPLES, tokenizer)
    tokens, types, size = encoded.tokens["tokens"], encoded.tokens["types"], encoded.labels["choice_size"]
    assert tokens.shape == types.shape == (3, 4, 40) and size.shape == (3, 4)
    assert encoded.example.tolist() == [0, 1, 2] and encoded.labels["label"].tolist() == [2, 0, 3]
    for i, example in enumerate(EXAMPLES[:2]):
        for k, choice in enumerate(example["choices"]):
            ids, kinds = tokenizer.frame_pair(tokenizer.encode(example["text"]), tokenizer.encode(choice))
            assert tokens[i, k, : size[i, k]].tolist() == ids.tolist() and len(ids) < 40
            assert types[i, k, : size[i, k]].tolist() == kinds.tolist()
    assert size[0, 3] == size[1, 2] == size[1, 3] == 0 and encoded.size.tolist() == size.max(axis=1).tolist()
    assert encoded.counts.tolist() == size.sum(axis=1).tolist() != encoded.size.tolist()  # all of them are read


def test_texts_that_are_too_long_give_from_the_longer_one(tokenizer):
    encoded = TASK.encode(EXAMPLES, tokenizer)
    text, short, long = map(tokenizer.encode, (EXAMPLES[2]["text"], "five", "six " * 30))
    room = 24 - tokenizer.pair_overhead
    wanted = tokenizer.frame_pair(text[: room - len(short)], short)[0]
    assert encoded.tokens["tokens"][2, 0].tolist() == wanted.tolist() and len(short) < room // 2
    ids, kinds = encoded.tokens["tokens"][2, 1], encoded.tokens["types"][2, 1]
    first = (kinds == 0).sum() - 2  # less [CLS] and [SEP]
    assert abs(first - room / 2) <= 1 and ids[1 : first + 1].tolist() == text[:first].tolist()
    assert ids[first + 2 : -1].tolist() == long[: room - first].tolist()


def test_hidden_labels(tokenizer):
    hidden = [{name: x[name] for name in ("id", "text", "choices")} for x in EXAMPLES]
    assert "label" not in TASK.encode(hidden, tokenizer).labels
    with pytest.raises(KeyError):
        TASK.reference(hidden[0])


def test_the_loss_is_the_cross_entropy_of_an_examples_own_choices(tokenizer):
    """Each row's number is that of the row alone, and what an example lacks weighs nothing, whatever stands there."""
    encoded, vocab = TASK.encode(EXAMPLES, tokenizer), tokenizer.vocab
    body = cases.BODIES["bert"].resized(layers=1, width=16, heads=2, hidden=16)
    net = TASK.net(body, vocab)
    params = jax.jit(lambda: init(net, jax.random.key(0), 8))()

    @jax.jit
    def scores_and_gradient(params, batch):
        context = StepContext(vocab)
        loss = lambda params: TASK.losses(net, {"params": params}, batch, context).totals["task"]  # noqa: E731
        return TASK.predict(net, {"params": params}, batch, context)["log_probability"], *jax.value_and_grad(loss)(
            params
        )

    batch = encoded.batch(np.arange(3))
    scores, loss, gradient = jax.device_get(scores_and_gradient(params, batch))
    alone = jax.jit(lambda params, inputs: net.apply({"params": params}, inputs, method="answer"))
    inputs = TASK.inputs(batch, vocab)
    numbers = np.full((3, 4), -np.inf)
    for i, k in np.argwhere(encoded.labels["choice_size"] > 0):
        row = jax.tree.map(lambda x: x[4 * i + k][None], inputs)
        numbers[i, k] = alone(params, row)[0, 0]
    wanted = numbers - np.log(np.exp(numbers).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(scores, wanted, atol=1e-5)
    assert (scores == -np.inf).sum() == 3 and np.ptp(numbers[0, :3]) > 1e-4
    np.testing.assert_allclose(loss, -wanted[[0, 1, 2], [2, 0, 3]].sum(), rtol=1e-5)

    other = batch | {name: batch[name].copy() for name in ("tokens", "types")}
    lacks = batch["choice_size"] == 0
    other["tokens"][lacks] = 9
    other["types"][lacks] = 1
    again = jax.device_get(scores_and_gradient(params, other))
    assert np.array_equal(again[0], scores) and again[1] == loss
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, again[2], gradient)))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))


def test_what_is_predicted_is_the_place_of_a_choice(tokenizer):
    encoded = TASK.encode(EXAMPLES, tokenizer)
    chance = np.array([[0.1, 0.2, 0.7, 0], [0.4, 0.6, 0, 0], [0.1, 0.1, 0.1, 0.7]])
    with np.errstate(divide="ignore"):
        answers = TASK.answers(EXAMPLES, encoded, {"log_probability": np.log(chance)}, tokenizer)
    assert [(x["id"], x["prediction"]) for x in answers] == [("a", "2"), ("b", "1"), ("c", "3")]
    assert answers[1]["chances"] == [0.4, 0.6]
    assert TASK.score(answers, EXAMPLES) == {"accuracy": pytest.approx(2 / 3)}
    for answer in answers:
        TASK.check_prediction(answer["prediction"])


@pytest.mark.parametrize("wrong", [1, None, "", "-1", "A", "01", "٣", "0\n", ["0"], 1.0])
def test_predictions_that_are_no_place(wrong):
    with pytest.raises(ValueError, match="the place of a choice"):
        TASK.check_prediction(wrong)


@pytest.mark.parametrize("label", [3, -1, "1", 1.0, True, None])
def test_labels_that_are_no_place(label):
    examples = [EXAMPLES[1], EXAMPLES[0] | {"label": label}]
    with pytest.raises(UserError, match="'a' has the label .* its 3 choices count from 0"):
        TASK.check_examples(examples, labelled=False)


def test_an_example_without_choices():
    with pytest.raises(UserError, match="'b' has no choices: name their columns in examples.choices"):
        TASK.check_examples([EXAMPLES[0], EXAMPLES[1] | {"choices": []}], labelled=True)


def test_flops_count_every_choice():
    body, row = cases.BODIES["bert"], lambda task: task.flops_per_row(cases.BODIES["bert"], 16, cases.VOCAB)
    assert body and row(TASK.resolved(EXAMPLES)) == 4 * row(TASK) and TASK.resolved(EXAMPLES).most == 4
    assert row(chz.replace(TASK, most=2).resolved(EXAMPLES)) == 2 * row(TASK)
