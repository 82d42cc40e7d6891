"""Permutation language modelling: the published visibility, what is drawn, and that no answer leaks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptjax.data.tokenizers import VocabSpec
from ptjax.models import XLNet
from ptjax.models.heads import init
from ptjax.nn.relative import relate
from ptjax.objectives import PLM, StepContext
from ptjax.objectives.base import CorruptContext
from ptjax.types import Mask, TextInput

VOCAB = VocabSpec.synthetic(100)
BODY = XLNet(layers=2, width=16, heads=2, hidden=32, dropout=0.0, attention_dropout=0.0, unroll=False)


@functools.cache
def corruption(rate: float):
    def corrupt(tokens, seed):
        keys = jax.random.split(jax.random.key(seed), len(tokens))
        context = CorruptContext(VOCAB, keys, keys, jnp.int32(0), jnp.float32(0))
        return PLM(rate=rate).corrupt({"tokens": tokens}, context)

    return jax.jit(corrupt)


def corrupted(objective: PLM, tokens: np.ndarray, seed: int = 0) -> dict:
    return corruption(objective.rate)(np.asarray(tokens, np.int32), seed)


def rows(seed: int, length: int = 16, count: int = 4) -> np.ndarray:
    random = np.random.default_rng(seed)
    tokens = random.integers(7, VOCAB.size, (count, length))
    tokens[random.random(tokens.shape) < 0.2] = VOCAB.boundary_id
    tokens[np.arange(length) >= random.integers(1, length + 1, count)[:, None]] = VOCAB.pad_id
    return tokens


@settings(deadline=None, max_examples=20, derandomize=True)
@given(seed=st.integers(0, 1000), rate=st.sampled_from([1 / 6, 0.5, 1.0]))
def test_exactly_the_rate_and_never_a_special_token(seed, rate):
    tokens = rows(seed)
    batch = jax.device_get(corrupted(PLM(rate=rate), tokens, seed))
    assert (batch["tokens"] == tokens).all()
    for row, at, weight, order in zip(tokens, batch["positions"], batch["weights"], batch["order"]):
        ordinary = ~np.isin(row, VOCAB.special_ids)
        targets = at[weight > 0]
        assert len(targets) == round(rate * ordinary.sum()) and ordinary[targets].all()
        assert (order[targets] == np.arange(1, len(targets) + 1)).all()
        assert np.count_nonzero(order) == len(targets) == len(set(targets))
    weights = PLM(rate=rate).weights(batch, VOCAB)
    assert weights == {"plm": batch["weights"].sum()}
    full = corrupted(PLM(rate=rate), tokens[:1] * 0 + 9)
    assert float(full["weights"].sum()) == PLM(rate=rate).predicted(16)["plm"]


def test_every_choice_in_every_order_is_as_likely():
    """3 targets of 6 tokens: 120 ordered choices, by chi-square against all of them alike."""
    draws = 24_000
    tokens = np.broadcast_to([VOCAB.boundary_id, 10, 11, 12, 13, 14, 15], (draws, 7))
    positions = np.asarray(corrupted(PLM(rate=0.5), tokens)["positions"])[:, :3]
    counts = np.unique(positions @ [100, 10, 1], return_counts=True)[1]
    assert len(counts) == 120
    expected = draws / 120
    assert ((counts - expected) ** 2 / expected).sum() < 119 + 5 * (2 * 119) ** 0.5
    assert (corrupted(PLM(rate=0.5), tokens, seed=1)["positions"][:, :3] != positions).any()


def published_masks(is_target: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(content, query): bool[L, L], whether the row's position sees the column's, by XLNet's _local_perm and its
    two_stream masks, for a row without functional tokens and a permutation `index` of it."""
    length = len(index)
    rev_index = np.where(is_target, index, -1)  # what is no target can be seen by all, and sees no target
    self_rev_index = np.where(is_target, rev_index, rev_index + 1)
    perm_mask = np.zeros((length, length), bool)
    for i in range(length):
        for j in range(length):
            perm_mask[i, j] = self_rev_index[i] <= rev_index[j] and is_target[j]
    non_target_mask = perm_mask & ~np.eye(length, dtype=bool)
    return ~non_target_mask, ~perm_mask


def test_streams_see_what_the_published_code_lets_them():
    tokens = np.random.default_rng(0).permutation(np.arange(20, 32))[None].repeat(3, axis=0)
    objective = PLM(rate=0.4)
    batch = corrupted(objective, tokens)
    relations = relate(objective.inputs(batch, VOCAB), BODY.width)
    for b, order in enumerate(np.asarray(batch["order"])):
        # Any permutation of the row in which the targets come last and as they were drawn.
        index = np.argsort(np.argsort(order, kind="stable"), kind="stable")
        content, query = published_masks(order > 0, index)
        np.testing.assert_array_equal(relations.row.allowed[b, 0], content)
        for p, at in enumerate(np.asarray(batch["positions"][b])):
            np.testing.assert_array_equal(relations.targets.allowed[b, 0, p], query[at])


@functools.cache
def queries_gradient():
    """(params, tokens, batch, p) -> f32[V]: how far the query at target p depends on the embedding of each piece."""
    net = PLM().net(BODY, VOCAB)
    params = jax.jit(lambda: init(net, jax.random.key(0), 8))()

    @jax.jit
    def gradient(batch, at):
        def read(params):
            hidden = net.apply({"params": params}, PLM().inputs(batch, VOCAB), method="hidden")
            return jnp.sum(jnp.sin(3 * hidden.queries[0, at]))

        return jnp.abs(jax.grad(read)(params)["body"]["embed"]["tokens"]).sum(axis=1)

    return gradient


def test_no_query_sees_its_answer_or_a_later_one():
    """No token comes twice, so the gradient at its row of the table is that at its position. Two documents, and one of
    a single token at the end, which as a target has nothing at all to see."""
    tokens = np.arange(20, 44)[None]
    tokens[0, [9, 22]] = VOCAB.boundary_id
    document = np.array([0] * 10 + [1] * 13 + [2])
    for seed in range(20):
        batch = corrupted(PLM(rate=0.5), tokens, seed)
        if batch["order"][0, 23] > 0:
            break
    order = np.asarray(batch["order"][0])
    lone = 0
    for p, at in enumerate(np.asarray(batch["positions"][0])[np.asarray(batch["weights"][0]) > 0]):
        found = np.asarray(queries_gradient()(batch, p))[tokens[0]]
        visible = (document == document[at]) & (order < order[at])
        special = tokens[0] == VOCAB.boundary_id  # comes twice
        assert (found[visible & ~special] > 0).all()
        assert (found[~visible & ~special] == 0).all()
        lone += not visible.any()
    assert lone == 1


def test_loss_is_the_formula():
    """Over rows of unequal numbers of targets: -log p of each under softmax(query . table + bias), less the padding."""
    objective = PLM(rate=0.3)
    batch = corrupted(objective, rows(3, count=2))
    net = objective.net(BODY, VOCAB)
    params = jax.jit(lambda: init(net, jax.random.key(1), 8))()
    bias = jnp.linspace(-1.0, 1.0, BODY.padded_vocab(VOCAB.size))
    params = params | {"permutation_head": {"bias": bias}}

    @jax.jit
    def run(params):
        hidden = net.apply({"params": params}, objective.inputs(batch, VOCAB), method="hidden")
        return objective.losses(net, {"params": params}, batch, StepContext(VOCAB)), hidden

    losses, hidden = run(params)
    logits = np.asarray(hidden.queries @ params["body"]["embed"]["tokens"].T + bias)[..., : VOCAB.size]
    logp = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    batch = jax.device_get(batch)
    expected = -sum(
        logp[b, p, batch["tokens"][b, at]]
        for b, row in enumerate(batch["positions"])
        for p, at in enumerate(row)
        if batch["weights"][b, p]
    )
    assert 0 < (batch["weights"] == 0).sum() < batch["weights"].size
    np.testing.assert_allclose(losses.totals["plm"], expected, rtol=1e-5)


def test_flops_count_both_streams():
    length, targets = 128, round(128 / 6)
    body = XLNet.preset("tiny")
    per_token = 2 * 2 * (4 * 128**2 + 2 * 128 * 512) + 2 * 8 * length * 128
    head = 2 * 128 * body.padded_vocab(VOCAB.size)
    query = per_token - 2 * 2 * 2 * 128**2
    assert PLM().flops_per_row(body, length, VOCAB) == length * per_token + targets * (query + head)


def test_impossible_rate():
    with pytest.raises(ValueError, match="rate must be in"):
        PLM(rate=0.0)


def test_a_body_without_targets_has_one_stream():
    tokens = np.full((1, 8), 9, np.int32)
    net = PLM().net(BODY, VOCAB)
    hidden = jax.eval_shape(
        lambda: net.apply(
            {"params": init(net, jax.random.key(0), 8)}, TextInput(tokens, tokens, Mask()), method="hidden"
        )
    )
    assert hidden.queries is None and hidden.last.shape == (1, 8, 16)
