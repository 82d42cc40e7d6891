"""ModernBERT: who sees whom in which layer, and what must not change its numbers. Parity is in tests/interop."""

import functools

import chz
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptjax.models import ModernBERT
from ptjax.models.heads import init, language_model, new_cache
from ptjax.types import Mask, TextInput

# The first layer, a group (local, local, global), and a local layer that is left.
CONFIG = ModernBERT(layers=5, width=16, heads=2, hidden=24, window=5, unroll=False)
LENGTH, VOCAB = 16, 60
TOKENS = np.random.default_rng(0).integers(0, VOCAB, (2, LENGTH)).astype(np.int32)
POSITIONS = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), TOKENS.shape)


def net_of(config):
    return language_model(config, VOCAB, transform=True, bias=True)


@functools.cache
def params_of(config):
    """Random everywhere, and far from small."""
    shapes = jax.eval_shape(lambda: init(net_of(config), jax.random.key(0), 8))
    random = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: random.normal(0, 0.5, leaf.shape).astype(np.float32), shapes)


@functools.cache
def reader(config):
    net = net_of(config)
    return jax.jit(lambda params, inputs, cache=None: net.apply({"params": params}, inputs, cache, method="hidden"))


def text(mask=Mask(), **changes):
    return TextInput(TOKENS, POSITIONS, mask).replace(**changes)


def influence(config, mask, attends_first: bool = True) -> np.ndarray:
    """bool[L, L]: whether the hidden state of one position depends at all on the embedding of another, by gradients.

    attends_first: otherwise the first layer's attention adds nothing.
    """
    body, params = config.build(VOCAB), params_of(config)["body"]
    if not attends_first:
        params = jax.tree_util.tree_map_with_path(
            lambda path, leaf: 0 * leaf if "first/attention/output" in "/".join(key.key for key in path) else leaf,
            params,
        )
    inputs = TextInput(TOKENS[:1], POSITIONS[:1], mask)
    embedded = params["embed"]["tokens"][TOKENS[:1]]
    away = np.random.default_rng(2).normal(size=(LENGTH, config.width)).astype(np.float32)
    read = lambda x_BLD: body.apply({"params": params}, inputs, train=False, embedded=x_BLD).last[0]
    back = jax.vjp(read, embedded)[1]
    of_place = lambda place_L: back(place_L[:, None] * away)[0][0]
    return np.asarray(jax.jit(jax.vmap(of_place))(np.eye(LENGTH, dtype=np.float32)) != 0).any(axis=-1)


DISTANCE = np.arange(LENGTH)[:, None] - np.arange(LENGTH)


@pytest.mark.parametrize("window,reach", [(1, 0), (5, 4), (6, 6)])
def test_local_layers_see_half_a_window_on_either_side(window, reach):
    """Of two local layers, the first layer's attention left out: twice as far, and no further."""
    config = chz.replace(CONFIG, layers=3, window=window)
    np.testing.assert_array_equal(influence(config, Mask(), attends_first=False), np.abs(DISTANCE) <= reach)


@pytest.mark.parametrize("layers,every,reach", [(4, 3, None), (4, 4, 3), (2, 1, None)])
def test_every_so_many_layers_see_all(layers, every, reach):
    config = chz.replace(CONFIG, layers=layers, every=every, window=2)
    seen = np.ones_like(DISTANCE, bool) if reach is None else np.abs(DISTANCE) <= reach
    np.testing.assert_array_equal(influence(config, Mask(), attends_first=False), seen)


def test_the_first_layer_sees_all():
    assert influence(chz.replace(CONFIG, layers=3), Mask()).all()


def test_causal_windows_look_back_only():
    seen = influence(chz.replace(CONFIG, layers=3), Mask(causal=True), attends_first=False)
    np.testing.assert_array_equal(seen, (DISTANCE >= 0) & (DISTANCE <= 4))


@functools.cache
def straight(causal: bool):
    return np.asarray(reader(CONFIG)(params_of(CONFIG), text(Mask(causal=causal))).last)


@functools.cache
def loss_and_gradient(config):
    net = net_of(config)
    hidden = lambda params: net.apply({"params": params}, text(), train=True, method="hidden").last
    return jax.jit(jax.value_and_grad(lambda params: jnp.sum(jnp.tanh(hidden(params)))))(params_of(CONFIG))


@pytest.mark.parametrize("change", [dict(unroll=True), dict(remat="full")], ids=str)
def test_how_layers_run_does_not_matter(change):
    (expected, gradient), (value, other) = loss_and_gradient(CONFIG), loss_and_gradient(chz.replace(CONFIG, **change))
    assert abs(value - expected) < 1e-3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(a).max() + 1e-6), gradient, other)


def test_cache_in_any_pieces():
    valid = np.arange(20) >= np.array([[0], [3]])  # padding stands on the left, as in sampling
    expected = reader(CONFIG)(params_of(CONFIG), text(Mask(causal=True, valid=valid[:, :LENGTH]))).last
    cache, parts = new_cache(CONFIG, 2, 20), []
    for piece in (slice(0, 8), slice(8, 16)):
        inputs = TextInput(TOKENS[:, piece], POSITIONS[:, piece], Mask(causal=True, valid=valid))
        hidden = reader(CONFIG)(params_of(CONFIG), inputs, cache)
        cache = hidden.state
        parts.append(hidden.last)
    ours, valid = np.concatenate(parts, axis=1), valid[:, :LENGTH]
    assert np.std(expected) > 0.3
    np.testing.assert_allclose(ours[valid], np.asarray(expected)[valid], atol=1e-4)


def test_a_scattered_row_is_the_row_in_order():
    """Its tokens in any places, with the positions that they had: the same hidden states in those places."""
    order = np.stack([np.random.default_rng(i).permutation(LENGTH) for i in (4, 5)]).astype(np.int32)
    moved = np.take_along_axis(TOKENS, order, axis=1)
    found = reader(CONFIG)(params_of(CONFIG), TextInput(moved, order, Mask(), scattered=True)).last
    expected = np.take_along_axis(straight(causal=False), order[..., None], axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    by_place = reader(CONFIG)(params_of(CONFIG), TextInput(moved, order, Mask())).last
    assert np.abs(by_place - expected).max() > 0.1
    with pytest.raises(ValueError, match="a scattered row is read alone"):
        inputs = TextInput(moved, order, Mask(), scattered=True)
        reader(CONFIG)(params_of(CONFIG), inputs, new_cache(CONFIG, 2, LENGTH))


def test_only_distances_count():
    found = reader(CONFIG)(params_of(CONFIG), text(positions=POSITIONS + 1000)).last
    np.testing.assert_allclose(found, straight(causal=False), atol=2e-3)
    stretched = reader(CONFIG)(params_of(CONFIG), text(positions=2 * POSITIONS)).last
    assert np.abs(stretched - straight(causal=False)).max() > 0.1


@pytest.mark.parametrize("name", ["dropout", "attention_dropout", "mlp_dropout", "embedding_dropout"])
def test_each_dropout_in_training_alone(name):
    config = chz.replace(CONFIG, layers=2, every=1, **{name: 0.5})
    net, params = net_of(config), params_of(chz.replace(config, **{name: 0.0}))
    read = lambda train: net.apply(
        {"params": params}, text(), train=train, rngs={"dropout": jax.random.key(0)}, method="hidden"
    )
    without, dropped = jax.jit(lambda: (read(False).last, read(True).last))()
    assert np.abs(without - dropped).max() > 0.1


@pytest.mark.parametrize("size,parameters", [("base", 149_014_272), ("large", 394_781_696)])
def test_published_sizes(size, parameters):
    """Of transformers' ModernBertModel by the config.json of the published weights: 149 and 395 million."""
    config = ModernBERT.preset(size)
    body = config.build(50368)
    shapes = jax.eval_shape(lambda: body.init(jax.random.key(0), text(), train=False))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == parameters
    # Every parameter of the layers is used once a token: without attention to other tokens that is all.
    kernels = parameters - config.width * (50368 + 1 + 2 * config.layers)
    far = -(-config.layers // 3)
    seen = far * 1000 + (config.layers - far) * 129
    assert config.flops_per_token(1000) == 2 * kernels + 4 * seen * config.width


def test_initial_kernels_that_write_to_the_residual_stream_are_smaller():
    config = chz.replace(CONFIG, layers=8, every=1, width=64, hidden=96)
    params = jax.jit(lambda: init(net_of(config), jax.random.key(0), 8))()["body"]["layers"]["block"]["blocks_0"]
    for kernel in (params["attention"]["output"]["kernel"], params["mlp"]["down"]["kernel"]):
        assert np.std(kernel) == pytest.approx(0.005, rel=0.05)
    for kernel in (params["attention"]["query"]["kernel"], params["mlp"]["gate"]["kernel"]):
        assert np.std(kernel) == pytest.approx(0.02, rel=0.05)


def test_impossible_sizes():
    with pytest.raises(ValueError, match="heads of size 3 cannot turn"):
        ModernBERT(width=12, heads=4)
    with pytest.raises(ValueError, match="every must be at least 1"):
        ModernBERT(every=0)
    with pytest.raises(ValueError, match="global_theta must be above 0"):
        ModernBERT(global_theta=0.0)
    ModernBERT(max_length=32).check_length(10_000)
