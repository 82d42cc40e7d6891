"""Minimal pairs: what is asked of a model, and what its answers are worth."""

import numpy as np
import pytest

from ptjax.config import UserError
from ptjax.data.examples import Examples
from ptjax.likelihood import Causal, Scorer
from ptjax.pretrained import Pretrained
from ptjax.tasks import MinimalPairs

NAMES = ("The value of a name", "an expression", "statements are simple", "if the class is defined")


def task(**changes) -> MinimalPairs:
    return MinimalPairs(name="pairs", examples=Examples(), **changes)


def pairs(*texts: tuple[str, str]) -> list[dict]:
    return [{"id": f"p{i}", "good": good, "bad": bad, "group": "ab"[i % 2]} for i, (good, bad) in enumerate(texts)]


@pytest.fixture(scope="module")
def start(trained):
    return Pretrained.open(trained("mlm").workdir)


def test_answers_are_the_scores_of_both(start):
    examples = pairs((NAMES[0], NAMES[1]), (NAMES[2], NAMES[2]), (NAMES[1], NAMES[0]))
    answers = task().judge(start, examples)
    scores = dict(zip(NAMES, Scorer.open(start).scores(NAMES)))
    for example, answer in zip(examples, answers, strict=True):
        assert answer["id"] == example["id"]
        assert answer["prediction"] == pytest.approx([scores[example["good"]], scores[example["bad"]]], rel=1e-5)
    assert task().score(answers, examples)["accuracy"] == 0.5  # right, a tie, wrong: or the other way round
    examples += [{"id": "long", "good": NAMES[0], "bad": "value " * 65}]
    *same, long = task(too_long="tie").judge(start, examples)
    assert same == answers and long == {"id": "long", "prediction": [0.0, 0.0]}
    for answer in answers:
        task().check_prediction(answer["prediction"])


def test_headlines():
    """Group a has three pairs, one right, b two: one right and one tie."""
    examples = pairs(*[(NAMES[0], NAMES[1])] * 5)
    given = {"p0": [1, 0], "p2": [0, 1], "p4": [-3, -2], "p1": [-1.5, -2], "p3": [7, 7]}
    answers = [{"id": key, "prediction": [float(x) for x in value]} for key, value in given.items()]
    expected = {"accuracy": 2.5 / 5, "group_accuracy": (1 / 3 + 1.5 / 2) / 2}
    assert task().score(answers, examples) == pytest.approx(expected)
    assert list(task(metric="group_accuracy").score(answers, examples)) == ["group_accuracy", "accuracy"]
    assert task().zero_shot


def test_a_model_that_knows_nothing_guesses(start):
    """Its sentences differ from those with two words swapped, and it is right on half of them."""
    draw = np.random.default_rng(0)
    words = sorted({word for name in NAMES for word in name.split()})
    texts = []
    while len(texts) < 200:
        good = draw.permutation(words)[:5]
        a, b = draw.choice(5, 2, replace=False)
        bad = good.copy()
        bad[[a, b]] = bad[[b, a]]
        texts.append((" ".join(good), " ".join(bad)))
    found = task().judge(start, pairs(*texts), fresh=True)
    assert np.mean([x["prediction"][0] > x["prediction"][1] for x in found]) == pytest.approx(0.5, abs=0.17)
    again, other = (task().judge(start, pairs(*texts[:5]), fresh=True, seed=seed) for seed in (0, 1))
    for a, b, c in zip(found, again, other):
        assert a["prediction"] == pytest.approx(b["prediction"], rel=1e-5) != c["prediction"]


def test_mistakes_name_the_example(start):
    for example, said in [
        ({"id": "p9", "good": "The value"}, "example 'p9' has no bad, but good"),
        ({"id": "p9", "good": None, "bad": "The value"}, "example 'p9' has no good"),
        ({"id": "p9", "good": " ", "bad": "The value"}, "example 'p9' has no good"),
        (
            {"id": "p9", "good": "The value", "bad": "value " * 65},
            "task pairs: bad of example p9 has .* tokens, and the",
        ),
    ]:
        with pytest.raises(UserError, match=said):
            task().judge(start, [*pairs(NAMES[:2]), example])
    with pytest.raises(UserError, match="Causal cannot be asked of a model that has learned MLM"):
        task(likelihood=Causal()).judge(start, pairs(NAMES[:2]))
    with pytest.raises(ValueError, match="measured by accuracy, group_accuracy"):
        task(metric="f1")


@pytest.mark.parametrize("bad", [1.0, [1.0], [1.0, 2.0, 3.0], [1.0, float("nan")], [1.0, float("-inf")], ["1", "2"],
                                 [True, False], None, "good"])  # fmt: skip
def test_what_is_no_prediction(bad):
    with pytest.raises(ValueError, match="two finite numbers"):
        task().check_prediction(bad)
