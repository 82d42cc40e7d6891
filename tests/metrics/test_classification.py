"""Accuracy, macro-F1 and MCC, beside scikit-learn's of the same labels."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from ptjax.metrics import MCC, Accuracy, MacroF1
from tests.metrics.same import from_sums, repeated, samples

LABELS = ("no", "yes", "", "Zürich", "東京", "no ")
LIBRARY = {
    "accuracy": accuracy_score,
    "macro_f1": lambda gold, found: f1_score(gold, found, average="macro", zero_division=0),
    "mcc": matthews_corrcoef,
}
METRICS = [Accuracy(), MacroF1(LABELS), MCC(LABELS)]
label = st.sampled_from(LABELS) | st.sampled_from(LABELS[:2])  # often few: one label alone, labels never predicted


@pytest.mark.filterwarnings("ignore:A single label")
@settings(max_examples=40)  # scikit-learn's checks of its input take their time
@given(samples(st.tuples(label, label)))
def test_equals_scikit_learn_on_the_sample_and_on_resamples_of_it(sample):
    predictions, references, weights = sample
    again = (repeated(predictions, weights), repeated(references, weights), weights)
    for (found, gold, times), metric in itertools.product([(predictions, references, None), again], METRICS):
        known = LIBRARY[metric.name](gold, found)
        assert metric(found, gold) == pytest.approx(known, abs=1e-12)
        assert from_sums(metric, predictions, references, times) == pytest.approx(known, abs=1e-9)


@pytest.mark.filterwarnings("ignore:A single label")
@settings(max_examples=40)
@given(samples(st.tuples(label | st.sampled_from(["other", "NO", "maybe"]), label)))
def test_a_prediction_that_is_no_label_is_wrong(sample):
    predictions, references, _ = sample
    for metric in (Accuracy(), MacroF1(), MacroF1(LABELS), MCC()):
        known = {*references, *getattr(metric, "labels", ())}
        outside = [found if found in known else "nothing" for found in predictions]
        if metric.name == "macro_f1":
            seen = [*({*references, *outside} & known)]
            expected = f1_score(references, outside, labels=seen, average="macro", zero_division=0)
        else:
            expected = LIBRARY[metric.name](references, outside)
        assert metric(predictions, references) == pytest.approx(expected, abs=1e-12)
        assert from_sums(metric, predictions, references) == pytest.approx(expected, abs=1e-9)


def test_known_values():
    predictions, references = ["a", "a", "b", "c"], ["a", "b", "b", "a"]
    assert Accuracy()(predictions, references) == 0.5
    # F1 of a: 2 * 1 / (2 + 2), of b: 2 * 1 / (1 + 2); 'c' is no label of the references
    assert MacroF1()(predictions, references) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert MacroF1(("a", "b", "c"))(predictions, references) == pytest.approx((1 / 2 + 2 / 3) / 3)
    assert MacroF1(("a", "b", "c", "d"))(predictions, references) == pytest.approx((1 / 2 + 2 / 3) / 3)
    assert MCC()(["a"] * 4, references) == 0 and MCC()(references, references) == pytest.approx(1)
    assert MCC()(["b", "a"], ["a", "b"]) == pytest.approx(-1)


@pytest.mark.parametrize("metric", [Accuracy(), MacroF1(), MCC()], ids=lambda metric: metric.name)
def test_labels_are_told_apart_by_all_their_characters(metric):
    """numpy's texts drop trailing zero bytes."""
    assert metric(["a\0", "a"], ["a", "a\0"]) <= 0
    assert metric(["a\0", "a"], ["a\0", "a"]) == pytest.approx(1)
    assert metric(["\ud800", "a"], ["\ud800", "a"]) == pytest.approx(1)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_statistics_of_several_runs_stack(metric):
    references = ["yes", "no", "yes"]
    runs = [["yes", "yes", "yes"], ["no", "what", "no"], references]
    stacked = np.stack([metric.statistics(run, references) for run in runs])
    expected = [metric(run, references) for run in runs]
    np.testing.assert_allclose(metric.value(stacked.sum(axis=1)), expected, atol=1e-12)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
@pytest.mark.parametrize("predictions, references", [([], []), (["yes"], ["yes", "no"])])
def test_needs_one_prediction_an_example(metric, predictions, references):
    for used in (metric, metric.statistics):
        with pytest.raises(ValueError, match="at least one example|1 predictions for 2 references"):
            used(predictions, references)
