"""DeBERTa: attention by its formula, distances in rows of every kind, the published sizes. That whole models have
transformers' numbers, tests/interop/test_families.py shows."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ptjax.models import DeBERTa
from ptjax.models.heads import new_cache, new_memory
from ptjax.models.transformer_xl import TransformerXL
from ptjax.nn.disentangled import Distances, DisentangledAttention, buckets_of
from ptjax.types import Mask, TextInput

SIZE = dict(layers=3, width=16, heads=2, hidden=32, dropout=0.0, attention_dropout=0.0, unroll=False)
NEAR = dict(buckets=8, furthest=12)  # so that short rows have distances of every kind
VOCAB, LENGTH = 50, 24


def test_buckets_are_the_published_ones():
    frozen = np.load(Path(__file__).parent / "fixtures" / "deberta_buckets.npz")
    assert len(frozen.files) == 5
    for name in frozen.files:
        buckets, furthest = map(int, name.split())
        rows = buckets_of(np.arange(-1200, 1201), buckets=buckets, furthest=furthest)
        np.testing.assert_array_equal(rows, frozen[name], err_msg=name)


@pytest.mark.parametrize("buckets,furthest", [(256, 512), (20, 100), (0, 30)])
def test_buckets_grow_with_the_distance(buckets, furthest):
    rows, span = buckets_of(np.arange(-2000, 2001), buckets=buckets, furthest=furthest), buckets or furthest
    middle, exact = 2000, buckets // 2 or furthest - 1
    np.testing.assert_array_equal(rows[middle - exact : middle + exact + 1] - span, np.arange(-exact, exact + 1))
    assert set(np.diff(rows)) == {0, 1}
    assert rows[0] == 0 and rows[-1] == 2 * span - 1
    assert rows[middle + furthest - 1] == 2 * span - 1 and rows[middle - furthest + 1] == 1
    near = slice(middle - furthest + 1, middle + furthest)
    np.testing.assert_array_equal(rows[near] - span, span - rows[near][::-1])


def random_variables(module, *inputs):
    rng = np.random.default_rng(1)

    def random(path, leaf):
        return jnp.asarray(rng.normal(path[-1].key == "scale", 0.4, leaf.shape), jnp.float32)

    shapes = jax.eval_shape(lambda: nn.meta.unbox(module.init(jax.random.key(0), *inputs, train=False)))
    return jax.tree_util.tree_map_with_path(random, shapes)


def test_attention_by_its_formula():
    width, heads, length, span = 12, 2, 9, 8
    size, rng = width // heads, np.random.default_rng(0)
    x_BLD = rng.normal(0, 1, (2, length, width)).astype(np.float32)
    vectors_TD = rng.normal(0, 1, (2 * span, width)).astype(np.float32)
    allowed_BLL = (rng.random((2, length, length)) < 0.7) | np.eye(length, dtype=bool)
    bucket_BLL = rng.integers(0, 2 * span, (2, length, length))
    related = Distances(allowed_BLL[:, None], vectors_TD, bucket_BLL)
    module = DisentangledAttention(width, heads, 0.0, 0.0, 0.1)
    variables = random_variables(module, x_BLD, related, None)
    found_BLD, _ = module.apply(variables, x_BLD, related, None, train=False)

    p = jax.device_get(variables["params"])
    linear = lambda name, y, h: y @ p[name]["kernel"][:, h] + p[name]["bias"][h]
    expected = np.broadcast_to(p["output"]["bias"], x_BLD.shape).copy()
    for b in range(2):
        for h in range(heads):
            for i in range(length):
                q_i, scores, values = linear("query", x_BLD[b, i], h), [], []
                for j in np.flatnonzero(allowed_BLL[b, i]):
                    k_j, vector = linear("key", x_BLD[b, j], h), vectors_TD[bucket_BLL[b, i, j]]
                    by_place = q_i @ linear("key", vector, h) + k_j @ linear("query", vector, h)
                    scores.append((q_i @ k_j + by_place) / np.sqrt(3 * size))
                    values.append(linear("value", x_BLD[b, j], h))
                weights = np.exp(scores - np.max(scores))
                expected[b, i] += weights @ values / weights.sum() @ p["output"]["kernel"][h]
    np.testing.assert_allclose(found_BLD, expected, rtol=1e-4, atol=1e-4)


CONFIGS = {
    "plain": DeBERTa(**SIZE, **NEAR),
    "convolution": DeBERTa(taps=3, absolute=True, types=2, **SIZE, **NEAR),
}
each_config = pytest.mark.parametrize("name", CONFIGS)


@functools.cache
def model(name):
    """Compiled: what a body with random weights makes of an input and a cache."""
    body = CONFIGS[name].build(VOCAB)
    tokens = np.zeros((1, 4), np.int32)
    variables = random_variables(body, TextInput(tokens, tokens, Mask()))
    return jax.jit(lambda inputs, cache=None: body.apply(variables, inputs, cache, train=False))


@functools.cache
def packed():
    """A row of documents of 15 and 9 tokens."""
    tokens = np.random.default_rng(3).integers(0, VOCAB, (1, LENGTH)).astype(np.int32)
    segments = np.repeat([0, 1], [15, 9])[None].astype(np.int32)
    positions = np.concatenate([np.arange(15), np.arange(9)])[None].astype(np.int32)
    types = (positions % 5 > 2).astype(np.int32)
    return TextInput(tokens, positions, Mask(segments=segments), types)


@each_config
def test_packed_documents_are_read_as_alone(name):
    row = packed()
    together = model(name)(row).last[0]
    for document in (slice(0, 15), slice(15, 24)):
        pad = ((0, 0), (0, LENGTH - (document.stop - document.start)))
        alone = lambda x: np.pad(x[:, document], pad)
        valid = np.pad(np.ones((1, document.stop - document.start), bool), pad)
        mask = Mask(valid=valid)
        inputs = TextInput(alone(row.tokens), np.arange(LENGTH, dtype=np.int32)[None], mask, alone(row.types))
        read = model(name)(inputs).last[0][: document.stop - document.start]
        assert np.asarray(read).std() > 0.3
        np.testing.assert_allclose(together[document], read, atol=2e-5)


@each_config
def test_a_scattered_row_goes_by_positions(name):
    row, order = packed(), np.random.default_rng(4).permutation(LENGTH)
    shuffle = lambda x: x[:, order]
    mask = Mask(segments=shuffle(row.mask.segments))
    scattered = TextInput(shuffle(row.tokens), shuffle(row.positions), mask, shuffle(row.types), scattered=True)
    np.testing.assert_allclose(model(name)(scattered).last, model(name)(row).last[:, order], atol=2e-5)


def test_distance_matters_and_the_place_in_the_row_does_not():
    row = packed()
    inputs = TextInput(row.tokens, row.positions, Mask(segments=row.mask.segments))
    moved = inputs.replace(positions=row.positions + 7)
    np.testing.assert_array_equal(model("plain")(inputs).last, model("plain")(moved).last)
    swapped = inputs.tokens.copy()
    swapped[0, [2, 9]] = swapped[0, [9, 2]]
    difference = model("plain")(inputs.replace(tokens=swapped)).last - model("plain")(inputs).last
    assert np.abs(difference[0, 4]).max() > 1e-2


@each_config
def test_causal_rows_do_not_see_what_follows(name):
    row = packed()
    inputs = row.replace(mask=Mask(causal=True))
    changed = row.tokens.copy()
    changed[0, 11] = (changed[0, 11] + 1) % VOCAB
    difference = model(name)(inputs).last - model(name)(inputs.replace(tokens=changed)).last
    assert (difference[0, :11] == 0).all()
    assert (np.abs(difference[0, 11:]).max(axis=-1) > 1e-4).all()


def test_cache_in_any_pieces():
    row = packed().replace(types=None, mask=Mask(causal=True))
    expected = model("plain")(row).last
    cache, parts, first = new_cache(CONFIGS["plain"], 1, LENGTH), [], 0
    for length in (11, 1, 1, 11):
        piece = slice(first, first + length)
        inputs = TextInput(row.tokens[:, piece], row.positions[:, piece], row.mask)
        hidden = model("plain")(inputs, cache)
        cache, first = hidden.state, first + length
        parts.append(hidden.last)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), expected, atol=2e-5)


def test_what_it_cannot_do():
    row, cache = packed(), new_cache(CONFIGS["plain"], 1, LENGTH)
    with pytest.raises(ValueError, match="taps=0"):
        model("convolution")(row, cache)
    with pytest.raises(ValueError, match="without a cache"):
        model("plain")(row.replace(scattered=True), cache)
    with pytest.raises(ValueError, match="no memory"):
        model("plain")(row, new_memory(TransformerXL(**SIZE, memory=4), 1))
    with pytest.raises(ValueError, match="even number"):
        DeBERTa(buckets=7)
    with pytest.raises(ValueError, match="buckets=0"):
        DeBERTa(buckets=64, furthest=32)
    with pytest.raises(ValueError, match="odd number"):
        DeBERTa(taps=2)
    with pytest.raises(ValueError, match="at least two layers"):
        DeBERTa(taps=3, layers=1)


def test_published_sizes():
    """Parameters of transformers' DebertaV2Model built from the published configs, of which the table of 128,100 pieces
    is 49, 98, 98, 131, 197 and 197 million (He et al., 2023, table 1 has 22, 44, 86 and 304 million besides)."""
    tokens = np.zeros((1, 8), np.int32)

    def parameters(size):
        body = DeBERTa.preset(size, unroll=False).build(128_100)
        shapes = jax.eval_shape(lambda: body.init(jax.random.key(0), TextInput(tokens, tokens, Mask()), train=False))
        return sum(np.prod(leaf.shape, dtype=int) for leaf in jax.tree.leaves(shapes))

    assert {size: parameters(size) for size in ("xsmall", "small", "base", "large", "v2-xlarge", "v2-xxlarge")} == {
        "xsmall": 70_682_112,
        "small": 141_304_320,
        "base": 183_831_552,
        "large": 434_012_160,
        "v2-xlarge": 884_593_152,
        "v2-xxlarge": 1_564_549_632,
    }
