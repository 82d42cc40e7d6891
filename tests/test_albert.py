"""ALBERT's layers are one: however it is run, and by whatever pieces."""

import functools

import chz
import jax
import jax.numpy as jnp
import numpy as np

from ptjax.models import ALBERT
from ptjax.models.heads import init, language_model, new_cache
from ptjax.types import Mask, TextInput

CONFIG = ALBERT(layers=3, width=16, heads=2, hidden=32, embedding=12, max_length=16, unroll=False)
TOKENS = np.random.default_rng(0).integers(0, 90, (2, 12)).astype(np.int32)
POSITIONS = np.broadcast_to(np.arange(12, dtype=np.int32), TOKENS.shape)
NET = language_model(CONFIG, 90, transform=True, bias=True)


@functools.cache
def params():
    fresh = jax.jit(lambda: init(NET, jax.random.key(1), 12))()
    return jax.tree.map(lambda x: x + 0.2 * np.random.default_rng(2).normal(size=x.shape).astype(np.float32), fresh)


@functools.cache
def answer(**changes):
    """(logits [2, 12, V] of a causal row, gradient of the sum of their tanh)."""
    net = language_model(chz.replace(CONFIG, **changes), 90, transform=True, bias=True)

    def total(params):
        logits = net.apply({"params": params}, TextInput(TOKENS, POSITIONS, Mask(causal=True)))
        return jnp.sum(jnp.tanh(logits)), logits

    (_, logits), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(params())
    return logits, gradient


def test_parameters_of_one_layer_serve_all():
    block = params()["body"]["layer"]["block"]
    assert block["mlp"]["up"]["kernel"].shape == (16, 32)
    assert params()["body"]["embed"]["tokens"].shape == (128, 12)
    multiplied = 12 * 16 + 3 * (4 * 16**2 + 2 * 16 * 32)  # the projection once, the block three times
    assert CONFIG.flops_per_token(10) == 2 * multiplied + 3 * 4 * 10 * 16
    more = chz.replace(CONFIG, layers=5)
    other = jax.eval_shape(lambda: init(language_model(more, 90, transform=True, bias=True), jax.random.key(1), 12))
    assert jax.tree.map(jnp.shape, other) == jax.tree.map(jnp.shape, params())


def test_how_layers_run_does_not_matter():
    expected, gradient = answer()
    logits, other = answer(unroll=True, remat="full")
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), gradient, other)


def test_every_layer_keeps_keys_and_values_of_its_own():
    expected, _ = answer()
    cache, parts = new_cache(CONFIG, 2, 12), []
    hidden = jax.jit(lambda inputs, cache: NET.apply({"params": params()}, inputs, cache, method="hidden"))
    for piece in (slice(0, 6), slice(6, 12)):
        found = hidden(TextInput(TOKENS[:, piece], POSITIONS[:, piece], Mask(causal=True)), cache)
        cache = found.state
        parts.append(NET.apply({"params": params()}, found.last, method="logits"))
    np.testing.assert_allclose(np.concatenate(parts, axis=1), expected, atol=1e-4)
    assert cache.key.shape[0] == 3
    assert not np.allclose(cache.key[0], cache.key[1])
