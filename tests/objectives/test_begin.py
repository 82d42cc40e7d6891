"""Text whose documents begin with a boundary, where there is none at their end."""

import numpy as np
import pytest

from ptjax.check import LAWS, Subject, small
from ptjax.check.questions import texts
from ptjax.data.tokenizers import VocabSpec
from tests.contracts import cases
from tests.objectives.posing import documents

VOCAB = VocabSpec.synthetic(300, "begin")
PAIRS = [
    ("CausalLM", "GPT"),
    ("PrefixLM", "GPT"),
    ("Hybrid", "GPT"),
    ("PLM", "XLNet"),
    ("SpanCorruption", "GPT"),
]


@pytest.mark.parametrize("objective, body", PAIRS, ids=lambda name: name)
def test_documents_do_not_meet_and_special_tokens_stay(objective, body):
    subject = Subject(small(cases.experiment(objective, body)), VOCAB)
    rows = subject.packed(0)
    inputs = subject.inputs(subject.corrupted(rows))
    assert (rows["tokens"] == VOCAB.boundary_id).sum() > 20
    # A boundary belongs to the document behind it: found by a loop, for the law takes the objective's word.
    text = texts(inputs)[0]
    for row, tokens, segments, positions in zip(rows["tokens"], text.tokens, text.mask.segments, text.positions):
        own = documents(row, VOCAB)
        boundary = tokens == VOCAB.boundary_id
        assert boundary.sum() == (row == VOCAB.boundary_id).sum()
        assert (positions[boundary] == 0).all() and set(np.diff(segments[tokens != VOCAB.pad_id])) <= {0, 1}
        assert sorted(set(segments[tokens != VOCAB.pad_id])) == sorted(set(own) - {-1})
    for law in ("documents", "special tokens"):
        result = LAWS[law](subject)
        assert result.passed, (law, result)
