"""The hand-written gradient against autodiff of the formula."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptjax import partition, platforms
from ptjax.objectives.cross_entropy import cross_entropy, parts_of

N, D, V, SIZE = 6, 8, 32, 27


def reference(features, table, bias, labels, smoothing):
    """(loss, log-sum-exp) a token, from the definition."""
    logits = (features @ table.T + bias)[:, :SIZE]
    log_probs = jax.nn.log_softmax(logits)
    target = (1 - smoothing) * jax.nn.one_hot(labels, SIZE) + smoothing / SIZE
    return -(target * log_probs).sum(axis=1), jax.nn.logsumexp(logits, axis=1)


def ours(features, table, bias, labels, smoothing):
    scores = cross_entropy(features, table, bias, labels, size=SIZE, smoothing=smoothing)
    return scores.loss, scores.lse


@functools.cache
def value_and_grad(scores, smoothing):
    """Of a weighted sum of losses and squared log-sum-exps, so that both cotangents are in play."""

    def total(features, table, bias, labels, weights):
        loss, lse = scores(features, table, bias, labels, smoothing)
        return jnp.sum(weights * loss) + jnp.sum((1 + weights) * lse**2)

    return jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@given(seed=st.integers(0, 2**31), scale=st.sampled_from([0.1, 1.0, 20.0]))
def test_loss_and_gradient(smoothing, seed, scale):
    random = np.random.default_rng(seed)
    draw = lambda *shape: random.standard_normal(shape).astype(np.float32)
    arguments = scale * draw(N, D), draw(V, D), draw(V), random.integers(0, SIZE, N), np.abs(draw(N))
    expected, expected_grads = value_and_grad(reference, smoothing)(*arguments)
    value, grads = value_and_grad(ours, smoothing)(*arguments)
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    for a, b in zip(expected_grads, grads):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(a).max())
    assert (np.asarray(grads[1])[SIZE:] == 0).all()  # padding is never predicted, so it never moves


def test_accuracy_and_nll_ignore_smoothing():
    features = jnp.eye(3, D)
    table = 10 * jnp.eye(V, D)
    scores = cross_entropy(features, table, None, jnp.array([0, 1, 5]), size=SIZE, smoothing=0.2)
    assert scores.correct.tolist() == [1, 1, 0]
    plain = cross_entropy(features, table, None, jnp.array([0, 1, 5]), size=SIZE)
    np.testing.assert_array_equal(scores.nll, plain.nll)
    assert (scores.loss != plain.loss).any()


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("smoothing,bias", [(0.1, True), (0.0, False)])
def test_in_parts_nothing_changes_and_the_logits_are_never_whole(monkeypatch, shards, smoothing, bias):
    random, rows = np.random.default_rng(0), 12
    draw = lambda *shape: jnp.asarray(random.standard_normal(shape), jnp.float32)
    features, table, bias = draw(rows, D), draw(V, D), draw(V) if bias else None
    labels, weights = random.integers(0, SIZE, rows), draw(rows)

    def total(features, table, bias):
        scores = cross_entropy(features, table, bias, labels, size=SIZE, smoothing=smoothing)
        return jnp.sum(weights * scores.loss) + jnp.sum(scores.lse**2), scores

    def step():  # a new function each time: jax would take what it has traced of the other
        return jax.value_and_grad(lambda *x: total(*x), argnums=(0, 1) if bias is None else (0, 1, 2), has_aux=True)

    whole = jax.jit(step())(features, table, bias)
    assert f"{rows}x{V}xf32" in jax.jit(step()).lower(features, table, bias).as_text()
    monkeypatch.setitem(platforms.PLATFORMS, "cpu", platforms.Platform(logits=3 * V * 4))
    mesh = partition.make_mesh(partition.MeshConfig(data=shards), jax.devices()[:shards])
    with partition.use(mesh, partition.Rules()):
        assert parts_of(rows, V) == 4 // shards
        by_rows = (partition.batch_sharding(mesh), None, None)
        lowered = jax.jit(step(), in_shardings=by_rows).lower(features, table, bias)
    parts = lowered.compile()(jax.device_put(features, partition.batch_sharding(mesh)), table, bias)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(a).max())
    assert f"{rows}x{V}xf32" not in lowered.as_text()


def test_how_many_parts(monkeypatch):
    assert parts_of(1 << 20, 1 << 17) == 1, "CPUs keep them all"
    monkeypatch.setitem(platforms.PLATFORMS, "cpu", platforms.Platform(logits=1 << 30))
    assert parts_of(16 * 1023, 50_304) == 4  # 3.3 GB
    assert parts_of(8191, 32_000) == 1  # small enough
    assert parts_of(8191, 64_000) == 1, "a prime number of rows"
