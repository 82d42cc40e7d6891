"""The bits of dropout: a hash has to look like coin tosses, along every axis and from key to key."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ptjax.nn.dropout import Dropout, kept

SHAPE, RATE = (8, 4, 128, 128), 0.1  # attention probabilities of a small layer
draw = jax.jit(kept, static_argnums=(1, 2))


def centred(seed: int, shape=SHAPE, rate=RATE) -> np.ndarray:
    """The mask in units of one toss's standard deviation, around its expectation."""
    mask = np.asarray(draw(jax.random.key(seed), shape, rate))
    return (mask - (1 - rate)) / np.sqrt(rate * (1 - rate))


def z(values: np.ndarray) -> float:
    """How many standard errors the mean of independent values of variance 1 is from 0."""
    return abs(float(values.mean())) * np.sqrt(values.size)


@pytest.fixture(scope="module")
def masks() -> np.ndarray:
    return np.stack([centred(seed) for seed in range(12)])


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
def test_the_share_that_is_kept(rate):
    assert z(centred(3, (64, 4096), rate)) < 4


def test_every_place_is_kept_as_often(masks):
    """Over keys and all axes but one: no row, head, query or key is favoured. Variances too: no axis is in step."""
    for axis in range(4):
        others = tuple(i for i in range(5) if i != axis + 1)
        size = masks.size // masks.shape[axis + 1]
        means = masks.mean(axis=others) * np.sqrt(size)
        assert np.abs(means).max() < 4.5
        assert abs((means**2).mean() - 1) < 6 * np.sqrt(2 / means.size)


def test_neighbours_are_independent(masks):
    """At near distances and at powers of two along each axis, and in pairs of axes."""
    lags = [1, 2, 3, 4, 5, 7, 8, 16, 31, 32, 64]
    for axis, lag in itertools.product(range(1, 5), lags):
        if lag < masks.shape[axis]:
            a, b = (np.moveaxis(masks, axis, 0)[part] for part in (slice(lag, None), slice(None, -lag)))
            assert z(a * b) < 4.5, (axis, lag)
    for lag in (1, 2, 16):
        assert z(masks[..., lag:, lag:] * masks[..., :-lag, :-lag]) < 4.5
        assert z(masks[..., lag:, :-lag] * masks[..., :-lag, lag:]) < 4.5


def test_triples_are_independent(masks):
    """Parities of three, where a hash that is too linear shows."""
    for lag in (1, 2, 4, 32):
        x = masks[..., : -2 * lag] * masks[..., lag:-lag] * masks[..., 2 * lag :]
        assert z(x) < 4.5


def test_keys_share_nothing(masks):
    """Neither masks of neighbouring seeds, nor of the keys folded from one by a step or a layer's number, nor of one
    bit's difference; also where the places of one are those of the other in another order."""
    base = jax.random.key(0)
    folded = np.stack([np.asarray(draw(jax.random.fold_in(base, n), SHAPE, RATE)) for n in range(8)])
    bits = [
        jax.random.wrap_key_data(jnp.array(words, jnp.uint32)) for words in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 3))
    ]
    flipped = np.stack([np.asarray(draw(key, SHAPE, RATE)) for key in bits])
    for group in (masks, *((m - (1 - RATE)) / np.sqrt(RATE * (1 - RATE)) for m in (folded, flipped))):
        for a, b in itertools.combinations(group, 2):
            assert z(a * b) < 4.5
            for bit in (1, 2, 64):  # places xor a number
                assert z(a * b[..., np.arange(128) ^ bit]) < 4.5


def test_rows_share_nothing(masks):
    for a, b in itertools.combinations(range(8), 2):
        assert z(masks[:, a] * masks[:, b]) < 4.5


@pytest.mark.parametrize("lags", [(1,), (1, 2), (1, 2, 3), (1, 128), (1, 2, 128)])
def test_patterns_come_as_often_as_they_should(lags):
    """Chi-squared over all patterns of neighbours, at even odds."""
    mask = np.asarray(draw(jax.random.key(5), (4, 1 << 16), 0.5)).astype(int)
    longest = max(lags)
    code = mask[:, : -longest or None][:, : (1 << 16) - longest].copy()
    for lag in lags:
        code = 2 * code + mask[:, lag : (1 << 16) - longest + lag]
    counts = np.bincount(code.reshape(-1), minlength=2 ** (1 + len(lags)))
    expected = code.size / len(counts)
    chi = ((counts - expected) ** 2 / expected).sum()
    assert chi < len(counts) + 5 * np.sqrt(2 * len(counts))


class Net(nn.Module):
    rate: float

    @nn.compact
    def __call__(self, x, train):
        return Dropout(self.rate)(x, deterministic=not train)


def test_the_layer():
    x = jnp.full((4, 2000), 3.0)
    apply = lambda rate, train, key: Net(rate).apply({}, x, train, rngs={"dropout": jax.random.key(key)})
    y = apply(0.2, True, 0)
    assert set(np.unique(y)) == {np.float32(0), np.float32(3.75)}
    assert np.mean(y == 0) == pytest.approx(0.2, abs=0.02)
    assert (apply(0.2, True, 1) != y).any()
    np.testing.assert_array_equal(apply(0.2, False, 0), x)
    np.testing.assert_array_equal(apply(0.0, True, 0), x)
    g = jax.grad(lambda x: Net(0.2).apply({}, x, True, rngs={"dropout": jax.random.key(0)}).sum())(x)
    np.testing.assert_array_equal(g, y / 3)


def test_under_vmap_each_key_draws_what_it_draws_alone():
    keys = jax.random.split(jax.random.key(1), 3)
    together = jax.jit(jax.vmap(lambda key: kept(key, (4, 32), 0.3)))(keys)
    np.testing.assert_array_equal(together, [draw(key, (4, 32), 0.3) for key in keys])


def test_a_mesh_draws_the_same():
    mesh = jax.make_mesh((4, 2), ("data", "tensor"))
    spec = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data", None, "tensor"))
    divided = jax.jit(kept, static_argnums=(1, 2), out_shardings=spec)(jax.random.key(2), (8, 3, 16), 0.5)
    np.testing.assert_array_equal(divided, draw(jax.random.key(2), (8, 3, 16), 0.5))


def test_other_generators_of_keys():
    assert z(np.asarray(draw(jax.random.key(7, impl="rbg"), (64, 512), 0.5)) * 2.0 - 1) < 4
