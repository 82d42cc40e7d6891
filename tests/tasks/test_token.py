"""Every word has one label, read at its first piece, in the window that knows most about it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from ptjax.config import UserError
from ptjax.data.examples.base import Examples
from ptjax.data.tokenizers import open_tokenizer
from ptjax.tasks import TokenClassification
from ptjax.tasks.token import first_pieces
from ptjax.tasks.windows import most_context, windows
from tests.data import published
from tests.tasks.oracle import Oracle, outputs

TAGS = ("B-x", "I-x", "O")
WORD = st.text("abTé\u0301😀.-1\u200b\0", min_size=0, max_size=9) | st.sampled_from(["the", "statement", "\u200b", " "])
SENTENCES = st.lists(st.lists(st.tuples(WORD, st.sampled_from(TAGS)), max_size=25), min_size=1, max_size=3)


@pytest.fixture(scope="module", params=[published.bert, published.gpt2, published.t5])
def tokenizer(request, tmp_path_factory):
    return open_tokenizer(request.param(tmp_path_factory.mktemp("tokenizer") / "published"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return open_tokenizer(published.bert(tmp_path_factory.mktemp("tokenizer") / "published"))


def task(**fields) -> TokenClassification:
    known = dict(labels=TAGS, usual="O", length=16, stride=3)
    return TokenClassification(**dict(name="tags", examples=Examples()) | known | fields)


def example(words, labels, name="a"):
    return {"id": name, "words": list(words), "labels": list(labels)}


def certain(encoded) -> np.ndarray:
    """Logits of a model that knows every label."""
    return np.eye(len(TAGS), dtype=np.float32)[np.maximum(encoded.tokens["label"], 0)] * 9


@settings(max_examples=30)
@given(sentences=SENTENCES, length=st.integers(8, 30), stride=st.integers(0, 5))
def test_labels_survive_windows(tokenizer, sentences, length, stride):
    """What the loss asks for is, when it is answered, what is predicted: every word with a piece gets its label."""
    examples = [
        example(*zip(*pairs), str(i)) if pairs else example([], [], str(i)) for i, pairs in enumerate(sentences)
    ]
    asked = task(length=length, stride=stride)
    encoded = asked.encode(examples, tokenizer)
    assert encoded.size.max() <= length and (encoded.size > 0).all()
    answers = asked.answers(examples, encoded, outputs(asked, encoded, tokenizer.vocab, certain(encoded)), tokenizer)
    assert [answer["id"] for answer in answers] == [x["id"] for x in examples]
    for number, (x, answer) in enumerate(zip(examples, answers)):
        _, spans = tokenizer.encode_offsets(" ".join(x["words"]))
        found = set(first_pieces(x["words"], spans).tolist()) - {-1}
        assert answer["prediction"] == [label if i in found else "O" for i, label in enumerate(x["labels"])]
        words = encoded.tokens["word"][encoded.example == number]
        assert sorted(words[words >= 0].tolist()) == sorted(found)  # each once
        letters = {i for i, word in enumerate(x["words"]) if any(c.isascii() and c.isalnum() for c in word)}
        assert letters <= found


@settings(max_examples=50)
@given(count=st.integers(0, 60), room=st.integers(1, 20), stride=st.integers(0, 19))
def test_windows(count, room, stride):
    stride = min(stride, room - 1)
    found = windows(count, room, stride)
    assert found[0][0] == 0 and found[-1][1] == count and all(stop - start <= room for start, stop in found)
    assert all(before[1] - after[0] == stride for before, after in zip(found, found[1:]))
    assert all(after[1] > before[1] for before, after in zip(found, found[1:]))  # each has something new
    chosen = most_context(found)
    assert len(chosen) == count
    for place, window in enumerate(chosen):
        nearer = [min(place - start, stop - 1 - place) for start, stop in found]
        assert window == nearer.index(max(nearer)) and max(nearer) >= 0


def test_first_pieces():
    spans = np.array([[0, 0], [0, 2], [2, 4], [5, 6], [6, 7], [5, 8], [10, 11]])  # of 'abcd efg  x', the 3rd word empty
    assert first_pieces(["abcd", "efg", "", "x"], spans).tolist() == [-1, 0, -1, 1, -1, -1, 3]
    assert first_pieces([], np.zeros((0, 2), int)).tolist() == []
    assert first_pieces(["", " "], np.array([[1, 2]])).tolist() == [1]


def test_only_first_pieces_count(bert):
    """The loss is the cross entropy at the first pieces of known labels, and has no gradient anywhere else."""
    asked = task(length=64)
    examples = [
        example(["statement", "x", "\u200b"], ["B-x", "new", "O"]),
        example(["and", "expressions"], ["O", "I-x"], "b"),
    ]
    encoded = asked.encode(examples, bert)
    places = {(r, i) for r, i in zip(*np.nonzero(encoded.tokens["label"] >= 0))}
    assert len(places) == 3  # 'new' was not seen in training, and the zero-width word has no piece
    batch = {k: jnp.asarray(v) for k, v in encoded.batch(np.array([0, 1, -1])).items()}
    assert (batch["label"][2] >= 0).any()  # a row that only fills up
    logits = jax.random.normal(jax.random.key(0), (*batch["tokens"].shape, 3))

    def loss(logits):
        return asked.losses(None, None, batch, Oracle(bert.vocab, logits)).totals["task"]

    total, gradient = jax.value_and_grad(loss)(logits)
    expected = sum(-jax.nn.log_softmax(logits[r, i])[encoded.tokens["label"][r, i]] for r, i in places)
    assert total == pytest.approx(float(expected), rel=1e-5)
    assert asked.weights(batch, bert.vocab)["task"] == 3
    assert {(r, i) for r, i, _ in zip(*np.nonzero(np.asarray(gradient)))} == places


def test_hidden_labels_are_predicted(bert):
    hidden = {"id": "a", "words": ["The", "statement"]}
    encoded = task().encode([hidden], bert)
    assert "label" not in encoded.tokens
    logits = np.zeros((*encoded.tokens["tokens"].shape, 3), np.float32)
    logits[..., 1] = 1
    found = task().answers([hidden], encoded, outputs(task(), encoded, bert.vocab, logits), bert)
    assert found == [{"id": "a", "prediction": ["I-x", "I-x"]}]


def test_labels_are_those_of_training():
    train = [example("ab", ["O", "B-y"]), example("cde", ["O", "O", "B-x"], "b")]
    found = task(labels=None, usual=None).resolved(train)
    assert (found.labels, found.usual) == (("B-x", "B-y", "O"), "O")
    assert task(labels=None, usual="B-y").resolved(train).usual == "B-y"
    with pytest.raises(UserError, match="1 label"):
        task(labels=None).resolved([example("ab", ["O", "O"])])


def test_what_cannot_be(bert):
    with pytest.raises(UserError, match="example 'a' has 1 labels for its 2 words"):
        task().check_examples([example("ab", ["O"])], labelled=False)
    with pytest.raises(ValueError, match="less than task.length"):
        task(stride=16)
    with pytest.raises(UserError, match="leaves 14 tokens for words"):
        task(stride=15).encode([example("ab", ["O", "O"])], bert)
    with pytest.raises(ValueError, match="accuracy"):
        task(metric="f1")
    for wrong in ("O", [1], None):
        with pytest.raises(ValueError, match="list of tags"):
            task().check_prediction(wrong)
    with pytest.raises(UserError, match="example 'a': 1 tags for its 2 words"):
        task().score([{"id": "a", "prediction": ["O"]}], [example("ab", ["O", "O"])])


def test_scores():
    examples = [example("abc", ["B-x", "I-x", "O"]), example("d", ["B-x"], "b")]
    answers = [{"id": "a", "prediction": ["B-x", "I-x", "O"]}, {"id": "b", "prediction": ["O"]}]
    scores = task().score(answers, examples)
    assert next(iter(scores)) == "span_f1" and scores["span_f1"] == pytest.approx(2 / 3) and scores["accuracy"] == 0.75
    assert task(metric="accuracy").score(answers, examples) == {"accuracy": 0.75}  # part-of-speech tags are no spans
