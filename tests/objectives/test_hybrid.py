"""GPT-BERT's masked next-token prediction against a formula written out as loops."""

import jax
import numpy as np
import pytest

from ptjax.objectives import Hybrid
from ptjax.objectives.base import StepContext
from tests.contracts import cases
from tests.objectives.posing import documents, log_probs, net_of, pose, seen, text

VOCAB = cases.VOCAB
OBJECTIVE = Hybrid(causal=0.5, rate=0.3)


def asked_of(batch) -> dict[str, list[tuple[int, int]]]:
    """(row, position) of the tokens that each kind of row is asked for."""
    asked = {"causal": [], "masked": []}
    for row, tokens in enumerate(batch["original"]):
        numbers = documents(tokens)
        for at in range(1, len(tokens)):
            inner = numbers[at] >= 0 and numbers[at] == numbers[at - 1]
            if batch["causal"][row] and inner:
                asked["causal"].append((row, at))
            if not batch["causal"][row] and batch["hidden"][row, at]:
                assert inner and tokens[at] not in VOCAB.special_ids
                asked["masked"].append((row, at))
    return asked


def test_losses_are_gpt_berts():
    """-log p of token i + 1 by the hidden state at i, each kind of row on its own."""
    batch = pose(OBJECTIVE, cases.batch(1))
    logs, (net, params) = log_probs(OBJECTIVE, batch), net_of(OBJECTIVE)
    losses = jax.jit(lambda b: OBJECTIVE.losses(net, {"params": params}, b, StepContext(VOCAB)))(batch)
    weights = OBJECTIVE.weights(batch, VOCAB)
    for name, asked in asked_of(batch).items():
        rows, places = np.array(asked).T
        nll = -logs[rows, places - 1, batch["original"][rows, places]]
        right = logs[rows, places - 1].argmax(axis=1) == batch["original"][rows, places]
        assert weights[name] == len(asked) > 20
        assert losses.totals[name] == pytest.approx(nll.sum(), rel=1e-4)
        assert losses.metrics[f"{name}_nll"] == pytest.approx((nll.sum(), len(asked)), rel=1e-4)
        assert losses.metrics[f"{name}_accuracy"] == (right.sum(), len(asked))


def test_each_kind_counts_by_its_share():
    """As in the authors' code, where each device has one kind and devices are averaged: 15 parts masked, 1 causal."""
    assert Hybrid().coefficients() == {"causal": 1 / 16, "masked": 15 / 16}


def test_rows_of_both_kinds():
    causal, steps = 0, 60
    for step in range(steps):
        batch = cases.batch(step)
        out = pose(OBJECTIVE, batch, step)
        causal += out["causal"].sum()
        assert (out["original"] == batch["tokens"]).all()
        assert (out["tokens"][out["causal"]] == batch["tokens"][out["causal"]]).all()
        assert not out["hidden"][out["causal"]].any()
        for row in np.flatnonzero(~out["causal"]):
            tokens, numbers = batch["tokens"][row], documents(batch["tokens"][row])
            inner = [i > 0 and numbers[i] == numbers[i - 1] and tokens[i] not in VOCAB.special_ids for i in range(32)]
            assert out["hidden"][row].sum() == round(0.3 * sum(inner))
            changed = out["tokens"][row] != tokens
            assert not (changed & ~out["hidden"][row]).any()
    rows = steps * cases.ROWS
    assert causal / rows == pytest.approx(0.5, abs=5 * (0.25 / rows) ** 0.5)


def test_kind_is_drawn_anew():
    batch = text(64, 32)
    kinds = np.stack([pose(OBJECTIVE, batch, step)["causal"] for step in range(30)])
    assert (kinds.any(axis=0) & ~kinds.all(axis=0)).all()


def test_predicted_is_what_is_asked():
    """Over a run in which the rate falls from 0.3 to 0.15."""
    steps, totals = 200, {"causal": 0.0, "masked": 0.0}
    for step in range(steps):
        batch = pose(OBJECTIVE, text(64, 33), step, progress=(step + 0.5) / steps)
        for name, weight in OBJECTIVE.weights(batch, VOCAB).items():
            totals[name] += float(weight) / 64 / steps
    wide = 5 * (0.25 / 64 / steps) ** 0.5  # of a share of rows
    expected = OBJECTIVE.predicted(33)
    assert totals["causal"] == pytest.approx(expected["causal"], abs=32 * wide)
    assert totals["masked"] == pytest.approx(expected["masked"], abs=10 * wide)


def test_causal_rows_see_no_future_and_masked_rows_all():
    batch = pose(OBJECTIVE, cases.batch(2, rows=4, length=16), 1)
    assert 0 < batch["causal"].sum() < 4
    found = seen(OBJECTIVE.inputs(batch, VOCAB))
    for row, tokens in enumerate(batch["original"]):
        numbers = documents(tokens)
        for i in range(16):
            for j in range(16):
                if numbers[i] >= 0:
                    expected = numbers[i] == numbers[j] and (j <= i or not batch["causal"][row])
                    assert found[row, i, j] == expected, (row, i, j)


def test_the_answer_is_not_in_the_question():
    """Other words at the hidden positions, same question, where every one of them is masked."""
    objective = Hybrid(causal=0.1, mask_share=1.0, random_share=0.0)
    batch = text(8, 32)
    first = pose(objective, batch)
    other = np.where(first["hidden"], text(8, 32, seed=1)["tokens"], batch["tokens"])
    assert (other != batch["tokens"]).sum() > 30
    assert (pose(objective, batch | {"tokens": other})["tokens"] == first["tokens"]).all()


def test_mistakes_are_explained():
    for causal in (0.0, 1.0):
        with pytest.raises(ValueError, match="CausalLM and MLM are the ends"):
            Hybrid(causal=causal)
