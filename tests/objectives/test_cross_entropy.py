"""The hand-written gradient against autodiff of the formula."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptjax.objectives.cross_entropy import cross_entropy

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
