"""Attention by its definition in numpy: who is seen, shared keys, normed keys, windows; what rotations preserve."""

import itertools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ptjax.nn import attention as attention_module
from ptjax.nn.attention import Attention, Cache, allowed, attend, attend_in_blocks, blocks
from ptjax.nn.rope import frequencies_of, rotate, rotation
from ptjax.types import Mask

ROWS, LENGTH, WIDTH, HEADS, SIZE = 2, 7, 12, 4, 6
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(ROWS, LENGTH, WIDTH)).astype(np.float32)
VALID = np.arange(LENGTH) < np.array([[7], [5]])
SEGMENTS = np.array([[0, 0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 1, 2, 2]], np.int32)
PREFIX = np.array([[1, 1, 0, 1, 0, 0, 0], [0, 1, 1, 0, 0, 0, 1]], bool)
ORDER = np.array([[3, 1, 2, 5, 4, 0, 0], [0, 6, 5, 4, 3, 2, 1]], np.int32)
SCATTERED = np.array([[6, 0, 3, 1, 5, 2, 4], [2, 1, 0, 6, 5, 4, 3]], np.int32)


def seen(mask: Mask, window=None, positions=None, i_first: int = 0, keys: int = LENGTH) -> np.ndarray:
    """bool[B, L, S], pair by pair, as the docstrings of Mask and Attention say. i_first: keys before the queries."""
    result = np.zeros((ROWS, LENGTH - i_first, keys), bool)
    for b, i, j in itertools.product(range(ROWS), range(i_first, LENGTH), range(keys)):
        behind = mask.causal and j > i and not (mask.prefix is not None and mask.prefix[b, j])
        far = 0 if window is None else abs(i - j) if positions is None else abs(positions[b, i] - positions[b, j])
        result[b, i - i_first, j] = not (
            behind
            or (i_first and j >= LENGTH)  # nothing is written there yet
            or (window is not None and far >= window)
            or (mask.valid is not None and not mask.valid[b, j])
            or (mask.segments is not None and mask.segments[b, i] != mask.segments[b, j])
            or (mask.order is not None and mask.order[b, j] > mask.order[b, i])
        )
    return result


@pytest.mark.parametrize("window,positions", [(None, None), (1, None), (3, None), (3, SCATTERED)], ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_who_is_seen(causal, window, positions):
    """All masks that can be put together."""
    parts = dict(valid=VALID, segments=SEGMENTS, prefix=PREFIX, order=ORDER)
    for names in itertools.chain.from_iterable(itertools.combinations(parts, n) for n in range(5)):
        mask = Mask(causal, **{name: parts[name] for name in names})
        found = allowed(mask, LENGTH, LENGTH, window=window, positions=positions)
        found = np.ones((1, 1, 1, 1), bool) if found is None else found
        expected = seen(mask, window, positions)
        np.testing.assert_array_equal(np.broadcast_to(found, (ROWS, 1, LENGTH, LENGTH))[:, 0], expected, str(names))
    assert allowed(Mask(), LENGTH, LENGTH) is None


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("causal", [False, True])
def test_who_is_seen_through_a_cache(causal, window):
    """The last three of seven tokens ask ten slots."""
    valid = np.arange(10) >= np.array([[0], [2]])
    found = allowed(Mask(causal, valid=valid), 3, 10, jnp.int32(LENGTH), window=window)
    np.testing.assert_array_equal(found[:, 0], seen(Mask(causal, valid=valid), window, i_first=4, keys=10))
    with pytest.raises(ValueError, match="packed segments cannot be decoded"):
        allowed(Mask(causal, segments=SEGMENTS), 3, LENGTH, jnp.int32(LENGTH))
    with pytest.raises(ValueError, match="a scattered row is read alone"):
        allowed(Mask(causal), LENGTH, LENGTH, jnp.int32(LENGTH), window=3, positions=SCATTERED)


def attention(**settings):
    """(module, params random everywhere)"""
    module = Attention(WIDTH, HEADS, 0.0, 0.5, 0.5, head_dim=SIZE, **settings)
    shapes = nn.meta.unbox(jax.eval_shape(lambda: module.init(jax.random.key(0), X, Mask(), None, train=False)))
    random = np.random.default_rng(1)
    return module, jax.tree.map(lambda leaf: random.normal(0.5, 0.5, leaf.shape).astype(np.float32), shapes)


def by_definition(params, seen_BLS, turns_BLKK, qk_epsilon=None):
    """[B, L, D], a loop over heads. turns_BLKK: the matrix that turns a query or key of each position."""
    p = params["params"]

    def project(name, h):
        # Queries that stand together share a head of keys and values.
        h = h * p[name]["kernel"].shape[1] // HEADS
        y = X @ p[name]["kernel"][:, h] + (p[name]["bias"][h] if "bias" in p[name] else 0)
        if name != "value" and qk_epsilon is not None:
            y = y / np.sqrt((y**2).mean(axis=-1, keepdims=True) + qk_epsilon) * p[f"{name}_norm"]["scale"]
        return y if name == "value" else np.einsum("blij,blj->bli", turns_BLKK, y)

    result = 0
    for h in range(HEADS):
        q, k, v = (project(name, h) for name in ("query", "key", "value"))
        scores = np.where(seen_BLS, np.einsum("bik,bjk->bij", q, k) / np.sqrt(SIZE), -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        result = result + np.einsum("bij,bjk->bik", weights, v) @ p["output"]["kernel"][h]
    return result + p["output"].get("bias", 0)


def turning(positions_BL, theta=50.0):
    """f64[B, L, K, K]: rotations of the pairs (i, i + K / 2) by position * theta ** (-2 i / K) radians."""
    matrix, half = np.zeros((*positions_BL.shape, SIZE, SIZE)), SIZE // 2
    for i in range(half):
        angle = positions_BL * theta ** (-2 * i / SIZE)
        matrix[..., i, i] = matrix[..., i + half, i + half] = np.cos(angle)
        matrix[..., i, i + half], matrix[..., i + half, i] = -np.sin(angle), np.sin(angle)
    return matrix


@pytest.mark.parametrize(
    "settings",
    [
        dict(),
        dict(kv_heads=2, window=3),
        dict(kv_heads=1, qk_epsilon=1e-2, use_bias=False),
        dict(kv_heads=HEADS, qk_epsilon=1e-6, window=1, out_bias=False),
    ],
    ids=str,
)
@pytest.mark.parametrize("turned", [False, True])
def test_attention_is_its_definition(settings, turned):
    module, params = attention(**settings)
    positions = np.broadcast_to(np.arange(LENGTH) * 2 + 3, (ROWS, LENGTH))
    turns = turning(positions if turned else 0 * positions)
    by = rotation(positions, frequencies_of(SIZE, 50.0)) if turned else None
    mask = Mask(causal=True, segments=SEGMENTS)
    found, cache = jax.jit(lambda: module.apply(params, X, mask, None, by, train=False))()
    assert cache is None
    expected = by_definition(params, seen(mask, settings.get("window")), turns, settings.get("qk_epsilon"))
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())
    names = {"query", "key", "value", "output"} | ({"query_norm", "key_norm"} if "qk_epsilon" in settings else set())
    assert params["params"].keys() == names
    assert ("bias" in params["params"]["key"]) == settings.get("use_bias", True)
    assert ("bias" in params["params"]["output"]) == settings.get("out_bias", True)


def test_a_window_counts_positions_in_a_scattered_row():
    module, params = attention(window=3)
    by = rotation(SCATTERED, frequencies_of(SIZE, 50.0))
    found, _ = jax.jit(lambda: module.apply(params, X, Mask(), None, by, SCATTERED, train=False))()
    expected = by_definition(params, seen(Mask(), 3, SCATTERED), turning(SCATTERED))
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


def test_a_cache_holds_turned_keys_of_as_few_heads_as_there_are():
    """Two pieces through a cache with room to spare give what the row gives whole."""
    module, params = attention(kv_heads=2, window=3, qk_epsilon=1e-6)
    positions = np.broadcast_to(np.arange(LENGTH), (ROWS, LENGTH))
    zeros = jnp.zeros((ROWS, 9, 2, SIZE))
    cache, parts = Cache(zeros, zeros, jnp.int32(0)), []
    apply = jax.jit(
        lambda x, at, cache: module.apply(
            params, x, Mask(causal=True), cache, rotation(at, frequencies_of(SIZE, 50.0)), train=False
        )
    )
    for piece in (slice(0, 4), slice(4, 7)):
        y, cache = apply(X[:, piece], positions[:, piece], cache)
        parts.append(y)
    assert cache.used == 7 and not np.asarray(cache.key[:, 7:]).any()
    expected = by_definition(params, seen(Mask(causal=True), 3), turning(positions), 1e-6)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), expected, atol=2e-5 * np.abs(expected).max())


# Rotations.


def turned(x_K, position: int, theta: float = 100.0):
    by = rotation(jnp.full((1, 1), position), frequencies_of(len(x_K), theta))
    return np.asarray(rotate(jnp.asarray(x_K)[None, None, None], by))[0, 0, 0]


def test_scores_depend_on_the_difference_of_positions_alone():
    q, k = RANDOM.normal(size=(2, 8)).astype(np.float32)
    score = lambda i, j: turned(q, i) @ turned(k, j)
    for i, j in ((0, 0), (5, 2), (2, 5), (40, 39)):
        np.testing.assert_allclose(score(i + 100, j + 100), score(i, j), atol=1e-4)
    differing = [score(i, 0) for i in range(-6, 7)]
    assert min(abs(a - b) for a, b in itertools.combinations(differing, 2)) > 1e-3  # and not on its size alone


def test_a_rotation_keeps_lengths_and_begins_at_none():
    x = RANDOM.normal(size=8).astype(np.float32)
    np.testing.assert_array_equal(turned(x, 0), x)
    for position in (1, 7, 1000):
        pairs = lambda y: y.reshape(2, 4)
        np.testing.assert_allclose((pairs(turned(x, position)) ** 2).sum(0), (pairs(x) ** 2).sum(0), rtol=1e-4)
        assert np.abs(turned(x, position) - x).max() > 0.1
    np.testing.assert_allclose(turned(turned(x, 3), 4), turned(x, 7), atol=1e-5)


def test_frequencies_fall_from_one_towards_the_base():
    np.testing.assert_allclose(frequencies_of(8, 10_000.0), [1, 0.1, 0.01, 0.001], rtol=1e-6)


def test_rotations_are_made_in_float32():
    x = jnp.ones((1, 1, 1, 8), jnp.bfloat16)
    found = rotate(x, rotation(jnp.full((1, 1), 1001), frequencies_of(8, 100.0)))
    assert found.dtype == jnp.bfloat16
    exact = turned(np.ones(8, np.float32), 1001)
    np.testing.assert_allclose(np.asarray(found, np.float32)[0, 0, 0], exact, rtol=2**-8, atol=1e-3)


@hypothesis.given(st.integers(1, 2000), st.booleans(), st.none() | st.integers(1, 2000))
def test_blocks_hold_every_pair_that_may_see_each_other(length, causal, window):
    found = blocks(length, causal=causal, window=window)
    assert [i for queries, _ in found for i in range(queries.start or 0, queries.stop)] == list(range(length))
    assert len(found) <= attention_module.MOST_BLOCKS
    for queries, keys in found:
        first, last, near = queries.start or 0, queries.stop - 1, length if window is None else window
        assert (keys.start or 0) == max(0, first - near + 1)
        assert keys.stop == min(length, last + 1 if causal else last + near)


@pytest.mark.parametrize("causal,window", [(True, None), (True, 2), (False, 2)])
def test_blocks_give_what_the_whole_row_gives(monkeypatch, causal, window):
    monkeypatch.setattr(attention_module, "BLOCK", 2)
    draw = lambda *shape: jnp.asarray(RANDOM.normal(size=shape), jnp.float32)
    q, k, v = draw(ROWS, LENGTH, 4, SIZE), draw(ROWS, LENGTH, 2, SIZE), draw(ROWS, LENGTH, 2, SIZE)
    allow = allowed(Mask(causal=causal, valid=VALID, segments=SEGMENTS), LENGTH, LENGTH, window=window)
    kept = lambda probs: probs
    whole = lambda *x: attend(*x, allow, kept)
    parts = lambda *x: attend_in_blocks(*x, allow, kept, causal=causal, window=window)
    real = VALID[:, :, None, None]

    def scored(of):
        loss = lambda *x: (jnp.sin(of(*x)) * real).sum()
        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(q, k, v)

    for a, b in zip(jax.tree.leaves(scored(parts)), jax.tree.leaves(scored(whole)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    products = f"f32[{ROWS},4,{LENGTH},{LENGTH}]"
    assert products in str(jax.make_jaxpr(whole)(q, k, v)) and products not in str(jax.make_jaxpr(parts)(q, k, v))
