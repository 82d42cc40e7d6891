"""Spans and tags, beside seqeval's, on tags no annotator would write too."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import accuracy_score, f1_score, precision_score, recall_score

from ptjax.metrics import SpanF1, SpanPrecision, SpanRecall, TokenAccuracy
from tests.metrics.same import from_sums, repeated, samples

SPANS = {"span_f1": f1_score, "span_precision": precision_score, "span_recall": recall_score}
METRICS = [SpanF1(), SpanPrecision(), SpanRecall(), TokenAccuracy()]
BIO = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
HOSTILE = ["B", "I", "B-", "I-", "B-a-b", "I-b", "I-東京", "E-PER", "S-LOC", "X", "NN", "o", "-PER", ".", "B-O"]


def sentences(tags, most: int = 6):
    """Of (predicted, right) tags, of one length, often none."""
    words = st.lists(st.tuples(st.sampled_from(tags), st.sampled_from(tags)), max_size=most)
    return words.map(lambda pairs: ([pair[0] for pair in pairs], [pair[1] for pair in pairs]))


def by_seqeval(name, predictions, references) -> float:
    if name in SPANS:
        return SPANS[name](references, predictions, zero_division=0)
    return accuracy_score(references, predictions) if any(references) else 0.0


@given(samples(sentences(BIO)))
def test_equals_seqeval_on_the_sample_and_on_resamples_of_it(sample):
    predictions, references, weights = sample
    again = (repeated(predictions, weights), repeated(references, weights), weights)
    for (found, gold, times), metric in itertools.product([(predictions, references, None), again], METRICS):
        known = by_seqeval(metric.name, found, gold)
        assert metric(found, gold) == pytest.approx(known, abs=1e-12)
        assert from_sums(metric, predictions, references, times) == pytest.approx(known, abs=1e-12)


@pytest.mark.filterwarnings("ignore:.*seems not to be NE tag")
@given(samples(sentences(BIO + HOSTILE)))
def test_equals_seqeval_on_tags_that_are_none(sample):
    predictions, references, _ = sample
    for metric in METRICS:
        known = by_seqeval(metric.name, predictions, references)
        assert metric(predictions, references) == pytest.approx(known, abs=1e-12)
        assert from_sums(metric, predictions, references) == pytest.approx(known, abs=1e-12)


def test_known_values():
    references = [["B-PER", "I-PER", "O", "B-LOC"], [], ["O", "B-ORG"]]
    predictions = [["B-PER", "I-PER", "O", "I-LOC"], [], ["B-ORG", "I-ORG"]]
    # An I- after O begins a span, as in conlleval: 2 of 3 predicted are right, and 2 of 3 found.
    assert SpanF1().statistics(predictions, references).tolist() == [[2, 2, 2], [0, 0, 0], [0, 1, 1]]
    assert SpanF1()(predictions, references) == pytest.approx(2 / 3)
    assert TokenAccuracy()(predictions, references) == pytest.approx(3 / 6)
    changed = [["B-PER", "I-LOC", "O"]], [["B-PER", "B-LOC", "O"]]  # an I- of another type begins one as well
    assert SpanF1()(*changed) == 1 and TokenAccuracy()(*changed) == pytest.approx(2 / 3)
    across = [["O", "B-PER"], ["I-PER", "O"]]  # no span goes on in the next sentence
    assert SpanF1().statistics(across, across).tolist() == [[1, 1, 1], [1, 1, 1]]


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_without_spans_or_words_it_is_0(metric):
    assert metric([[], []], [[], []]) == from_sums(metric, [[], []], [[], []]) == 0
    if metric.name != "accuracy":
        assert metric([["O"]], [["O"]]) == from_sums(metric, [["O"]], [["O"]]) == 0


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_names_the_sentence_that_cannot_be_measured(metric):
    for used in (metric, metric.statistics):
        with pytest.raises(ValueError, match="sentence 1: 1 tags are predicted for 2 words"):
            used([["O"], ["O"]], [["O"], ["O", "O"]])
        with pytest.raises(ValueError, match="1 predictions for 2 references"):
            used([["O"]], [["O"], ["O"]])
        with pytest.raises(ValueError, match="sentence 0: a tag is empty"):
            used([[""]], [["O"]])
