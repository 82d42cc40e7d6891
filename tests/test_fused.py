"""Fused attention gives what the written-out one gives, forward and backward, in packed rows with padding."""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptjax import partition
from ptjax.nn import cudnn, splash
from ptjax.nn.attention import allowed, attend
from ptjax.types import Mask

ROWS, HEADS, KV_HEADS, SIZE = 2, 4, 2, 16
RULES = partition.Rules()


def packed(length: int, causal: bool) -> Mask:
    """Two documents a row, longer than most windows here, and padding."""
    ends, real = np.array([[0.2], [0.5]]) * length, np.array([[1.0], [0.9]]) * length
    place = np.arange(length)[None]
    return Mask(causal, valid=jnp.asarray(place < real), segments=jnp.asarray((place >= ends).astype(np.int32)))


def inputs(length: int, kv_heads: int = KV_HEADS) -> list:
    random = np.random.default_rng(0)
    shapes = [(ROWS, length, heads, SIZE) for heads in (HEADS, kv_heads, kv_heads, HEADS)]
    return [jnp.asarray(random.normal(size=shape), jnp.float32) for shape in shapes]


def outcome(attention, mask: Mask, q, k, v, asked, mesh=None) -> list[np.ndarray]:
    """Outputs at real positions, all outputs, and the gradient of the real ones, each weighted by `asked`."""
    real = mask.valid[..., None, None]

    def total(q, k, v):
        y = attention(q, k, v, mask)
        return jnp.sum(y * asked * real), y

    def both(*inputs):
        if mesh is None:
            return jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True)(*inputs)
        with partition.use(mesh, RULES):
            return jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True)(*inputs)

    (_, y), gradients = jax.jit(both)(q, k, v)
    assert np.isfinite(y).all()
    return [np.asarray(y * real), *map(np.asarray, gradients)]


def written_out(q, k, v, mask: Mask, window=None):
    length = q.shape[1]
    return attend(q, k, v, allowed(mask, length, length, window=window), lambda p: p)


def same(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize("window", [None, 1, 9, 33])
@pytest.mark.parametrize("causal", [False, True])
def test_masks_and_blocks_for_cudnn(causal, window):
    """As XLA computes what cuDNN is asked. Windows that reach one block exactly, and one too wide for blocks."""
    mask, given = packed(96, causal), inputs(96)
    found = functools.partial(cudnn.attend, window=window, implementation="xla")
    with mock.patch.object(cudnn, "TILE", 8):
        result = outcome(found, mask, *given)
    same(result, outcome(functools.partial(written_out, window=window), mask, *given))


@pytest.mark.parametrize("causal,window,tensor", [(True, None, 2), (False, 70, 1)])
def test_splash(causal, window, tensor):
    """Two blocks of queries and keys; on a mesh, where each device has its rows and heads."""
    mesh = partition.make_mesh(partition.MeshConfig(data=2, tensor=tensor), jax.devices()[: 2 * tensor])
    mask, given = packed(256, causal), inputs(256)
    found = functools.partial(splash.attend, window=window, interpret=True)
    with mock.patch.object(splash, "LARGEST_BLOCK", 128):
        result = outcome(found, mask, *given, mesh=mesh)
    same(result, outcome(functools.partial(written_out, window=window), mask, *given))


def test_a_mesh_that_leaves_the_shared_keys_whole():
    mesh = partition.make_mesh(partition.MeshConfig(data=1, tensor=4), jax.devices()[:4])
    mask, given = packed(64, True), inputs(64)
    found = functools.partial(cudnn.attend, implementation="xla")
    with mock.patch(f"{__name__}.RULES", partition.Rules(kv_heads=None)):
        result = outcome(found, mask, *given, mesh=mesh)
    same(result, outcome(written_out, mask, *given))


MASKS = {
    "packed": Mask(True, valid=jnp.ones((2, 512), bool), segments=jnp.zeros((2, 512), jnp.int32)),
    "plain": Mask(),
    "prefix": Mask(True, prefix=jnp.ones((2, 512), bool)),
    "order": Mask(order=jnp.zeros((2, 512), jnp.int32)),
}
USUAL = dict(window=None, positions=None, cache_used=False, dropout=0.0, bias=False)


@pytest.mark.parametrize("kernel", [splash, cudnn])
def test_what_is_supported(kernel):
    def supports(mask="packed", q=(2, 512, 4, 64), k=(2, 512, 2, 64), dtype=jnp.dtype("bfloat16"), **changes):
        return kernel.supports(q, k, dtype, MASKS[mask], **(USUAL | changes))

    assert supports() and supports("plain") and supports(window=7) and supports(positions=jnp.zeros((2, 512)))
    assert not supports("prefix") and not supports("order") and not supports(cache_used=True)
    assert not supports(dropout=0.1) and not supports(bias=True)
    assert not supports(window=7, positions=jnp.zeros((2, 512))), "a scattered row counts its window by positions"
    assert not supports(k=(2, 256, 2, 64)), "a decoder's view of its encoder"
    assert supports(dtype=jnp.dtype("float32")) == (kernel is splash)
    assert supports(q=(2, 130, 4, 64), k=(2, 130, 2, 64)) == (kernel is cudnn)
    assert supports(q=(2, 512, 4, 256), k=(2, 512, 2, 256)) == (kernel is splash)


@pytest.mark.parametrize("window", [None, 65])
def test_a_gpu_is_asked_for_cudnn_alone(window):
    """Lowered, not run: cuDNN's kernels forward and backward, and no products of queries and keys beside them."""
    q, mask = jnp.zeros((2, 512, 4, 64), jnp.bfloat16), packed(512, causal=True)
    total = lambda q: cudnn.attend(q, q, q, mask, window=window).astype(jnp.float32).sum()
    with mock.patch("jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91000):
        text = jax.jit(jax.grad(total)).trace(q).lower(lowering_platforms=("cuda",)).as_text()
    assert "__cudnn$fmhaScaleBiasSoftmax(" in text and "__cudnn$fmhaScaleBiasSoftmaxBackward(" in text
    assert "dot_general" not in text
    assert ("CAUSAL" in text) == (window is None), "blocks carry their own mask"


def test_a_tpu_compiles_splash():
    """For a machine that is not there: forward and backward of a packed row, on a mesh of rows and heads."""
    pytest.importorskip("libtpu")
    from jax.experimental import topologies

    devices = topologies.get_topology_desc("v5e:2x2", platform="tpu").devices
    mesh = partition.make_mesh(partition.MeshConfig(data=2, tensor=2), devices)
    mask = packed(512, causal=True)
    place = lambda *axes: jax.NamedSharding(mesh, jax.P(partition.BATCH_AXES, *axes))
    q = jax.ShapeDtypeStruct((ROWS, 512, HEADS, 64), jnp.bfloat16, sharding=place(None, "tensor"))
    rows = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place()), mask)

    def total(q, mask):
        with partition.use(mesh, RULES):
            return splash.attend(q, q, q, mask).astype(jnp.float32).sum()

    compiled = jax.jit(jax.grad(total)).lower(q, rows).compile()
    assert compiled.as_text().count("tpu_custom_call") >= 3, "forward, and the gradients of queries and of keys"
