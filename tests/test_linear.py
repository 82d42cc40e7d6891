"""Products with kernels: the gradients that are written out for CPUs are autodiff's."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ptjax import platforms
from ptjax.nn.linear import Linear, over_rows, product


@contextlib.contextmanager
def autodiff(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(platforms.PLATFORMS, "cpu", platforms.Platform())
        yield


def values(shape, seed, dtype="float32"):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


@pytest.mark.parametrize("dtype,tolerance", [("float32", 1e-6), ("bfloat16", 1e-2)])
@pytest.mark.parametrize("shape,contract", [((6, 2, 5), 1), ((5, 3), 1), ((3, 4, 6), 2), ((4, 2, 3), 2)])
def test_gradients_are_autodiffs(monkeypatch, shape, contract, dtype, tolerance):
    """Of kernels wider than tall and taller than wide, with several axes on either side."""
    x, kernel = values((2, 3, *shape[:contract]), 0, dtype), values(shape, 1, dtype)
    dy = values((2, 3, *shape[contract:]), 2, dtype)
    pull = lambda x, kernel: jax.vjp(lambda x, kernel: product(x, kernel, contract), x, kernel)
    y, back = pull(x, kernel)
    with autodiff(monkeypatch):
        expected, expected_back = pull(x, kernel)
    for ours, theirs in zip((y, *back(dy)), (expected, *expected_back(dy)), strict=True):
        assert ours.dtype == theirs.dtype == jnp.dtype(dtype) and ours.shape == theirs.shape
        a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
        np.testing.assert_allclose(a, b, atol=tolerance * np.abs(b).max())


@pytest.mark.parametrize("inputs,outputs", [(3, 8), (8, 3)])
def test_sums_over_rows(inputs, outputs):
    x, y = values((7, inputs), 0, "bfloat16"), values((7, outputs), 1, "bfloat16")
    found = over_rows(x, y, jnp.float32)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, np.asarray(x, np.float32).T @ np.asarray(y, np.float32), rtol=1e-5, atol=1e-5)


def test_a_kernel_on_a_mesh_keeps_its_axes():
    """Where heads are divided, neither kernel nor gradient may be gathered into one matrix: it has no axis of heads."""
    from ptjax import partition

    mesh = partition.make_mesh(partition.MeshConfig(data=4, tensor=2))
    linear = Linear((6, 4, 3), ("embed", "heads", "head_dim"), 0.5, use_bias=False)
    x = values((8, 6), 0)
    kernel = nn.meta.unbox(linear.init(jax.random.key(0), x))["params"]["kernel"]

    def gradient(x, kernel):
        return jax.grad(lambda kernel: linear.apply({"params": {"kernel": kernel}}, x).sum())(kernel)

    expected = jax.jit(gradient)(x, kernel)
    with partition.use(mesh, partition.Rules()):
        heads = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "tensor"))
        rows = partition.batch_sharding(mesh)
        compiled = jax.jit(gradient, in_shardings=(rows, heads), out_shardings=heads).lower(x, kernel).compile()
    assert "all-gather" not in compiled.as_text()
    np.testing.assert_allclose(compiled(jax.device_put(x, rows), jax.device_put(kernel, heads)), expected, rtol=1e-5)
