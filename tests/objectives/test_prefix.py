"""Prefix language models: who sees whom, what is asked, how long prefixes are."""

import jax
import numpy as np
import pytest

from ptjax.objectives import PrefixLM
from ptjax.objectives.base import StepContext
from tests.contracts import cases
from tests.objectives.posing import documents, log_probs, net_of, pose, seen, text

VOCAB, OBJECTIVE = cases.VOCAB, PrefixLM()


def members(row):
    """Positions of each document of a row."""
    numbers = np.array(documents(row))
    return [np.flatnonzero(numbers == number) for number in sorted(set(numbers) - {-1})]


def test_prefixes_begin_documents():
    for step in range(20):
        batch = cases.batch(step)
        prefix = pose(OBJECTIVE, batch, step)["prefix"]
        assert not prefix[batch["tokens"] == VOCAB.pad_id].any()
        for row, tokens in enumerate(batch["tokens"]):
            for document in members(tokens):
                flags = prefix[row, document]
                assert flags[0] and (np.diff(flags.astype(int)) <= 0).all()
                assert len(flags) == 1 or not flags[-1]


def test_lengths_are_uniform():
    """In documents of five and of seven tokens that share a row, independently of each other."""
    tokens = text(64, 12)["tokens"]
    tokens[:, 4] = VOCAB.boundary_id
    first, second = [], []
    for step in range(60):
        prefix = pose(OBJECTIVE, {"index": np.arange(64, dtype=np.int32), "tokens": tokens}, step)["prefix"]
        first, second = [*first, *prefix[:, :5].sum(axis=1)], [*second, *prefix[:, 5:].sum(axis=1)]
    draws = len(first)
    for lengths, size in ((first, 5), (second, 7)):
        shares = np.bincount(lengths, minlength=size)[1:] / draws
        assert len(shares) == size - 1
        np.testing.assert_allclose(shares, 1 / (size - 1), atol=5 * (0.25 / draws) ** 0.5)
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / draws**0.5


def test_loss_is_the_rests():
    """-log p of each token behind a prefix, by a loop over a plain forward pass."""
    batch = pose(OBJECTIVE, cases.batch(1))
    logs, (net, params) = log_probs(OBJECTIVE, batch), net_of(OBJECTIVE)
    total, asked = 0.0, 0
    for row, tokens in enumerate(batch["tokens"]):
        for document in members(tokens):
            for before, at in zip(document, document[1:]):
                if not batch["prefix"][row, at]:
                    total, asked = total - logs[row, before, tokens[at]], asked + 1
    assert asked > 50 and OBJECTIVE.weights(batch, VOCAB)["prefix"] == asked
    losses = jax.jit(lambda b: OBJECTIVE.losses(net, {"params": params}, b, StepContext(VOCAB)))(batch)
    assert losses.totals["prefix"] == pytest.approx(total, rel=1e-4)
    nll, weight = losses.metrics["nll"]
    assert nll == pytest.approx(total, rel=1e-4) and weight == asked


def test_half_is_predicted():
    weights = [float(OBJECTIVE.weights(pose(OBJECTIVE, text(64, 32), step), VOCAB)["prefix"]) for step in range(40)]
    spread = (31**2 / 12 / 64 / 40) ** 0.5
    assert np.mean(weights) / 64 == pytest.approx(OBJECTIVE.predicted(32)["prefix"], abs=5 * spread)


def test_all_see_the_prefix_and_none_the_future():
    """Gradients: zero from every later token but the prefix, and from other documents; not zero from all the others."""
    batch = pose(OBJECTIVE, cases.batch(2, rows=4, length=16))
    found = seen(OBJECTIVE.inputs(batch, VOCAB))
    later = 0
    for row, tokens in enumerate(batch["tokens"]):
        numbers, prefix = documents(tokens), batch["prefix"][row]
        for i in range(16):
            for j in range(16):
                if numbers[i] >= 0:
                    expected = numbers[i] == numbers[j] and (j <= i or prefix[j])
                    assert found[row, i, j] == expected, (row, i, j)
                    later += expected and j > i
                    # What is asked at i is the token at i + 1: it is not seen.
                    assert not (j == i + 1 and expected and not prefix[j])
    assert later > 5
