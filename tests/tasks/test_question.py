"""Answers go from characters to tokens of windows and back to characters."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st

from ptjax.config import UserError
from ptjax.data.examples.base import Examples
from ptjax.tasks import QuestionAnswering
from ptjax.tasks.question import OUTSIDE, covering
from tests.data import published
from tests.tasks.oracle import Oracle, outputs

TEXT = st.text("ab TéÉ\u0301😀.-1 \u200bﬁ", min_size=1, max_size=60)


@pytest.fixture(scope="module")
def bert(opened):
    return opened(published.bert)


def task(**fields) -> QuestionAnswering:
    known = dict(length=32, stride=8, max_question=8, unanswerable=False, attention="bidirectional")
    return QuestionAnswering(**dict(name="qa", examples=Examples()) | known | fields)


def example(context, *answers, question="What is it?", name="a"):
    """answers: (text, start) or a text that is looked for."""
    pairs = [answer if isinstance(answer, tuple) else (answer, context.index(answer)) for answer in answers]
    found = [{"text": text, "start": start} for text, start in pairs]
    return {"id": name, "question": question, "context": context, "answers": found}


def certain(encoded, null: np.ndarray | None = None) -> np.ndarray:
    """Logits of a model that knows every window's answer. null: f32[N], logit of the first token, where it has none."""
    logits = np.zeros((*encoded.tokens["tokens"].shape, 2), np.float32)
    for i, name in enumerate(("start", "end")):
        rows = np.flatnonzero(encoded.labels[name] >= 0)
        logits[rows, encoded.labels[name][rows], i] = 9
    missing = encoded.labels["start"] < 0
    logits[missing, 0] = 9 if null is None else null[missing, None]
    return logits


def answered(task, examples, tokenizer, logits=certain):
    encoded = task.encode(examples, tokenizer)
    found = outputs(task, encoded, tokenizer.vocab, logits(encoded))
    return task.answers(examples, encoded, found, tokenizer)


@pytest.mark.parametrize(
    "kind, attention",
    [
        (published.bert, "bidirectional"),
        (published.bert, "causal"),
        (published.gpt2, "causal"),
        (published.roberta, "bidirectional"),
        (published.t5, "bidirectional"),
        (published.llama, "causal"),
    ],
)
@settings(max_examples=25)
@given(context=TEXT, data=st.data())
def test_answers_survive(opened, kind, attention, context, data):
    """A model that knows the answer's tokens gives its text back, from whichever windows hold it."""
    tokenizer = opened(kind)
    _, spans = tokenizer.encode_offsets(context)
    assume(any(context[start:stop].strip() for start, stop in spans))
    start = data.draw(st.integers(0, len(context) - 1))
    stop = data.draw(st.integers(start + 1, len(context)))
    pieces = covering(spans, start, stop)
    assume(pieces is not None and pieces[1] - pieces[0] < 8)  # one window has it whole
    asked = task(attention=attention, length=data.draw(st.integers(28, 60)))
    examples = [example(context, (context[start:stop], start)), example("no answer", name="b")]
    encoded = asked.encode(examples, tokenizer)
    assert encoded.size.max() <= asked.length and (encoded.labels["start"] >= 0).any()
    piece = encoded.tokens["piece"]
    assert set(piece[encoded.example == 0].ravel()) - {0} == set(range(1, len(spans) + 1))
    null = encoded.size - 1 if attention == "causal" else np.zeros_like(encoded.size)
    assert not piece[np.arange(len(encoded)), null].any()  # no answer's
    for row, first, last in zip(piece, encoded.labels["start"], encoded.labels["end"]):
        assert first < 0 or (row[first] - 1, row[last] - 1) == pieces
    found = answered(asked, examples, tokenizer)[0]
    expected = context[spans[pieces[0], 0] : spans[pieces[1], 1]].strip()
    assume(expected)
    assert found["prediction"] == expected == found["n_best"][0]["text"]
    assert context[start:stop].strip() in expected
    if start in spans[:, 0] and stop in spans[:, 1]:  # whole pieces: nothing is lost
        assert expected == context[start:stop].strip()


@given(data=st.data())
def test_covering_is_the_smallest(data):
    ends = sorted(data.draw(st.lists(st.integers(0, 20), min_size=2, max_size=8)))
    spans = np.array([*itertools.pairwise(ends)])
    start = data.draw(st.integers(0, 19))
    stop = data.draw(st.integers(start + 1, 20))
    touched = [i for i, (a, b) in enumerate(spans) if set(range(a, b)) & set(range(start, stop))]
    assert covering(spans, start, stop) == ((touched[0], touched[-1]) if touched else None)


def test_the_answer_is_as_it_was_written(bert):
    context = "It was  the\tSTATEMENT, of Café-1.  " * 3
    assert (
        answered(task(), [example(context, "the\tSTATEMENT, of Café")], bert)[0]["prediction"]
        == "the\tSTATEMENT, of Café"
    )


def test_loss_is_cross_entropy_over_the_context(bert):
    asked = task()
    examples = [example("the statement is an expression of the class " * 4, "an expression"), example("none", name="b")]
    encoded = asked.encode(examples, bert)
    held = encoded.labels["start"] >= 0
    assert 0 < held.sum() < len(encoded) - 1  # in one window, not in the other; and a question without an answer
    batch = {k: jnp.asarray(v) for k, v in encoded.batch(np.array([*range(len(encoded)), -1])).items()}
    logits = jax.random.normal(jax.random.key(0), (*batch["tokens"].shape, 2))

    def loss(logits):
        return asked.losses(None, None, batch, Oracle(bert.vocab, logits)).totals["task"]

    total, gradient = jax.value_and_grad(loss)(logits)
    expected = 0.0
    for row in range(len(encoded)):
        open_ = np.flatnonzero(encoded.tokens["piece"][row]).tolist() + [0]
        for i, name in enumerate(("start", "end")):
            right = int(encoded.labels[name][row]) if held[row] else 0
            expected -= float(logits[row, right, i] - jax.nn.logsumexp(logits[row, jnp.array(open_), i])) / 2
        assert set(np.flatnonzero(np.abs(gradient[row]).sum(axis=-1))) == set(open_)
    assert float(total) == pytest.approx(expected, rel=1e-5)
    assert not np.any(gradient[-1]) and asked.weights(batch, bert.vocab)["task"] == len(encoded)


def test_no_answer_needs_all_windows(bert):
    """The null score is the smallest over windows (BERT's run_squad): each has to find that it has no answer."""
    asked = task(unanswerable=True)
    context = "the statement is an expression of the class " * 8

    def scored(*nulls, **fields):
        def logits(encoded):
            logits = np.zeros((*encoded.tokens["tokens"].shape, 2), np.float32)
            logits[np.arange(len(encoded)), encoded.size - 3] = 2  # a token of each window's context
            logits[:, 0] = np.resize(nulls, len(encoded))[:, None]
            return logits

        return answered(task(**dict(unanswerable=True) | fields), [example(context)], bert, logits)[0]

    assert len(asked.encode([example(context)], bert)) >= 3
    sure, unsure = scored(3, 3, 3), scored(3, 3, 1)
    assert sure["prediction"] == "" and sure["null_odds"] == pytest.approx(2)
    assert unsure["prediction"] == unsure["n_best"][0]["text"] != "" and unsure["null_odds"] == pytest.approx(-2)
    assert scored(3, 3, 3, null_threshold=2.5)["prediction"] != "" != scored(9, 9, 9, unanswerable=False)["prediction"]


def test_long_answers_and_backward_ones_are_not_predicted(bert):
    context = "the statement is an expression of the class"

    def logits(encoded):
        logits = np.zeros((*encoded.tokens["tokens"].shape, 2), np.float32)
        first = int(np.flatnonzero(encoded.tokens["piece"][0])[0])
        logits[0, first + 4, 0], logits[0, first + 1, 1], logits[0, first + 7, 1] = 9, 8, 7
        return logits

    _, spans = bert.encode_offsets(context)
    start = spans[4, 0]
    long, short = (answered(task(max_answer=n, length=60), [example(context)], bert, logits)[0] for n in (4, 3))
    assert long["prediction"] == context[start : spans[7, 1]] and long["n_best"][0]["score"] == 16
    assert short["prediction"].startswith(context[start : spans[4, 1]]) and short["n_best"][0]["score"] == 9
    texts = [shown["text"] for shown in long["n_best"]]
    assert len(texts) == 5 == len(set(texts))


def test_short_rows_have_fewer_candidates(bert):
    asked = task(n_best=40)
    encoded = asked.encode([example("a b", "b")], bert)
    found = outputs(asked, encoded, bert.vocab, certain(encoded))
    assert found["start"].shape == (1, 40) and (found["start_logit"][0] > OUTSIDE / 2).sum() == 2
    assert asked.answers([example("a b", "b")], encoded, found, bert)[0]["prediction"] == "b"


@pytest.mark.parametrize("context", ["", " ", "\u200b"])
def test_contexts_without_tokens_have_no_answer(bert, context):
    for unanswerable in (True, False):
        asked = task(unanswerable=unanswerable)
        found = answered(asked, [example(context), example("the class", "class", name="b")], bert)
        assert [answer["prediction"] for answer in found] == ["", "class"] and found[0]["n_best"] == []


def test_contexts_are_tokenized_once(bert, monkeypatch):
    """However often a split is answered, as at every validation."""
    calls, read = [], bert.encode_offsets
    monkeypatch.setattr(bert, "encode_offsets", lambda text: calls.append(text) or read(text))
    asked = task()
    examples = [example("the class", "class"), example("the class", "the", name="b")]
    encoded = asked.encode(examples, bert)
    found = outputs(asked, encoded, bert.vocab, certain(encoded))
    for _ in range(2):
        answers = asked.answers(examples, encoded, found, bert)
        assert [answer["prediction"] for answer in answers] == ["class", "the"]
    assert calls == ["the class"]


def test_where_answers_are_hidden_nothing_is_asked(bert):
    hidden = {name: value for name, value in example("the class", "class").items() if name != "answers"}
    assert not task().encode([hidden], bert).labels


def test_answerability_is_found_in_training():
    assert not task(unanswerable=None).resolved([example("the class", "class")]).unanswerable
    assert task(unanswerable=None).resolved([example("the class", "class"), example("x")]).unanswerable
    assert task(unanswerable=False).resolved([example("x")]).unanswerable is False


def test_what_cannot_be(bert):
    with pytest.raises(UserError, match="example 'a': its question leaves 9 tokens.*task.stride=10"):
        task(length=20, stride=10).encode([example("the class", question="a " * 60)], bert)
    with pytest.raises(ValueError, match="n_best"):
        task(n_best=0)
    for wrong in (None, 1, ["a"]):
        with pytest.raises(ValueError, match="a prediction is a text"):
            task().check_prediction(wrong)
    task().check_prediction("")


def test_scores():
    examples = [example("The class, a", "class", "The class"), example("b", name="b")]
    answers = [{"id": "a", "prediction": "a Class!"}, {"id": "b", "prediction": "b"}]
    assert task().score(answers, examples) == {"f1": 0.5, "exact_match": 0.5}
    assert next(iter(task(metric="exact_match").score(answers, examples))) == "exact_match"
