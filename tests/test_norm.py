"""The norms and their gradients, against Flax's, which autodiff goes through."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ptjax.nn.norm import LayerNorm, RMSNorm

PAIRS = {
    "layer norm": (LayerNorm(1e-5), nn.LayerNorm(epsilon=1e-5, use_fast_variance=False)),
    "without bias": (
        LayerNorm(1e-12, use_bias=False),
        nn.LayerNorm(epsilon=1e-12, use_fast_variance=False, use_bias=False),
    ),
    "rms norm": (RMSNorm(1e-6), nn.RMSNorm(epsilon=1e-6)),
}


def close(a, b, tolerance):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype and x.shape == y.shape
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        assert np.abs(x - y).max() <= tolerance * np.abs(y).max()


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_values_and_gradients_are_flaxs(name, dtype):
    ours, theirs = (module.clone(dtype=jnp.dtype(dtype)) for module in PAIRS[name])
    keys = jax.random.split(jax.random.key(0), 3)
    x = (3 * jax.random.normal(keys[0], (2, 5, 24)) + 1).astype(dtype)
    weigh = jax.random.normal(keys[1], x.shape)
    params = nn.meta.unbox(ours.init(keys[2], x))
    assert jax.tree.structure(params) == jax.tree.structure(theirs.init(keys[2], x))
    noise = iter(jax.random.split(keys[2], 2))
    params = jax.tree.map(lambda p: p + 0.3 * jax.random.normal(next(noise), p.shape), params)

    def both(module):
        loss = lambda params, x: (module.apply(params, x).astype(jnp.float32) * weigh).sum()
        return module.apply(params, x), jax.grad(loss, argnums=(0, 1))(params, x)

    (y, g), (y_flax, g_flax) = jax.jit(lambda: both(ours))(), jax.jit(lambda: both(theirs))()
    close(y, y_flax, 2e-6 if dtype == "float32" else 1e-2)
    close(g, g_flax, 2e-5 if dtype == "float32" else 2e-2)


def test_a_large_mean_costs_no_digits():
    """The variance is of what is left when the mean is gone."""
    x = jax.random.normal(jax.random.key(1), (4, 64))
    far = LayerNorm(1e-5)
    params = far.init(jax.random.key(0), x)
    np.testing.assert_allclose(far.apply(params, x + 4096.0), far.apply(params, x), atol=2e-3)
