"""Which examples a task reads, and what is said of others."""

import pytest

from ptjax.config import UserError
from ptjax.data.examples import NoExamples
from ptjax.tasks import (
    MinimalPairs,
    MultipleChoice,
    QuestionAnswering,
    SequenceClassification,
    SequenceRegression,
    TokenClassification,
)

EXAMPLES = {
    SequenceClassification: {"text": "one", "label": "a"},
    SequenceRegression: {"text": "one", "pair": "two", "label": 0.5},
    TokenClassification: {"words": ["one", "two"], "labels": ["O", "B-x"]},
    QuestionAnswering: {"question": "q", "context": "one two", "answers": [{"text": "two", "start": 4}]},
    MultipleChoice: {"text": "one", "choices": ["a", "b"], "label": 1},
    MinimalPairs: {"good": "it is", "bad": "it are", "group": "verbs"},
}
ANSWERS = ("label", "labels", "answers")


def check(kind, example, labelled=True):
    kind(name="t", examples=NoExamples()).check_examples([{"id": "e1"} | example], labelled)


@pytest.mark.parametrize("kind", EXAMPLES)
def test_its_own_examples_and_no_others(kind):
    check(kind, EXAMPLES[kind])
    hidden = {key: value for key, value in EXAMPLES[kind].items() if key not in ANSWERS}
    check(kind, hidden, labelled=False)
    if kind is not MinimalPairs:
        with pytest.raises(UserError, match=f"a {kind.__name__}: example 'e1' has no (label|labels|answers), but "):
            check(kind, hidden)
    for other, example in EXAMPLES.items():
        if not {"text", "label"} <= set(kind.holds) or "text" not in example:
            if other is not kind:
                with pytest.raises(UserError, match=f"example 'e1' has no .*such examples are for .*{other.__name__}"):
                    check(kind, example)


@pytest.mark.parametrize("kind, wrong, said", [
    (SequenceClassification, {"text": None}, "has the text None"),
    (SequenceClassification, {"label": ["a"]}, "has the label \\['a'\\]: a class is a text"),
    (SequenceRegression, {"label": "positive"}, "'positive', and SequenceRegression learns finite numbers, read with "
     "examples.number=True; SequenceClassification learns names of classes"),
    (SequenceRegression, {"label": float("nan")}, "has the label nan"),
    (SequenceRegression, {"pair": 3}, "has the pair 3"),
    (TokenClassification, {"words": "one two"}, "has the words 'one two'"),
    (TokenClassification, {"labels": ["O"]}, "has 1 labels for its 2 words"),
    (QuestionAnswering, {"answers": ["two"]}, "has the answers \\['two'\\]"),
    (QuestionAnswering, {"context": ["two"]}, "has the context"),
    (MultipleChoice, {"choices": "ab"}, "has the choices 'ab'"),
    (MultipleChoice, {"label": "1"}, "has the label '1', and its 2 choices count from 0"),
    (MinimalPairs, {"bad": " "}, "has no bad"),
])  # fmt: skip
def test_values_that_cannot_be(kind, wrong, said):
    with pytest.raises(UserError, match=f"task t, a {kind.__name__}: example 'e1' .*{said}"):
        check(kind, EXAMPLES[kind] | wrong, labelled=False)


def test_a_task_without_examples_says_so():
    assert NoExamples().splits == ()
    with pytest.raises(UserError, match="it has none"):
        NoExamples().read("test")
