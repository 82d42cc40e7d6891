"""Fused attention on NVIDIA GPUs: cuDNN's flash kernels through `jax.nn.dot_product_attention`.

They know no documents, so a packed row takes a mask of [L, L], the same for all heads; the products themselves are
never written out. A window is cut into blocks that see their neighbours alone, so that its mask is [L, 3 blocks].
"""

import functools

import jax
import jax.numpy as jnp

from ptjax.nn.fused import documents, honours, per_head
from ptjax.types import Array, Mask

TILE = 128  # of queries and keys in cuDNN's kernels: blocks are multiples of it
LARGEST_HEAD = 128  # 256 from Hopper on


def supports(
    q_shape: tuple[int, ...],
    k_shape: tuple[int, ...],
    dtype: jnp.dtype,
    mask: Mask,
    *,
    window: int | None,
    positions: Array | None,
    cache_used: bool,
    dropout: float,
    bias: bool,
) -> bool:
    """Whether `attend` gives exactly what is asked, from shapes and structure alone.

    q_shape: (B, L, H, K). k_shape: (B, S, heads of keys, K). bias: whether one is added to the products.
    """
    length, size = q_shape[1], q_shape[3]
    return (
        honours(mask, window=window, positions=positions, cache_used=cache_used, dropout=dropout, bias=bias)
        and dtype in (jnp.float16, jnp.bfloat16)
        and length == k_shape[1]
        and length % 2 == 0  # what cuDNN asks for the gradient beside a mask
        and size % 8 == 0
        and size <= LARGEST_HEAD
    )


def attend(
    q_BLHK: Array,
    k_BSHK: Array,
    v_BSHK: Array,
    mask: Mask,
    *,
    scale: float | None = None,
    window: int | None = None,
    implementation: str = "cudnn",
) -> Array:
    """Scaled dot-product attention -> [B, L, H, K], of what `supports`.

    scale, window: as in `nn.attention`. implementation: of `jax.nn.dot_product_attention`; "xla" runs anywhere.
    """
    kernel = functools.partial(jax.nn.dot_product_attention, scale=scale, implementation=implementation)
    block = None if window is None else -(-(window - 1) // TILE) * TILE or TILE
    if block is not None and q_BLHK.shape[1] % block == 0 and q_BLHK.shape[1] > 3 * block:
        local = functools.partial(_blocks, kernel, causal=mask.causal, window=window, size=block)
    else:
        local = functools.partial(_row, kernel, causal=mask.causal, window=window)
    return per_head(local, q_BLHK, k_BSHK, v_BSHK, documents(mask))


def _row(kernel, q_BLHK, k_BSHK, v_BSHK, ids_BL, *, causal, window):
    place_L = jnp.arange(q_BLHK.shape[1])
    parts = []
    if window is not None:
        parts.append((jnp.abs(place_L[:, None] - place_L) < window)[None, None])
    if ids_BL is not None:
        parts.append((ids_BL[:, :, None] == ids_BL[:, None, :])[:, None])
    mask = functools.reduce(jnp.logical_and, parts) if parts else None
    return kernel(q_BLHK, k_BSHK, v_BSHK, mask=mask, is_causal=causal)


def _blocks(kernel, q_BLHK, k_BSHK, v_BSHK, ids_BL, *, causal, window, size):
    """Each block of queries as a row of its own beside the keys of the block before it, itself and, where attention is
    not causal, the block after it."""
    rows, length = q_BLHK.shape[:2]
    count, offsets = length // size, (-1, 0) if causal else (-1, 0, 1)

    def beside(x, fill):
        ends = [(0, 0), (size, size)] + [(0, 0)] * (x.ndim - 2)
        padded = jnp.pad(x, ends, constant_values=fill)
        parts = (padded[:, size + o * size : size + o * size + length] for o in offsets)
        parts = [part.reshape(rows * count, size, *x.shape[2:]) for part in parts]
        return jnp.concatenate(parts, axis=1)

    ids_BL = jnp.zeros((rows, length), jnp.int32) if ids_BL is None else ids_BL
    outside = jnp.iinfo(jnp.int32).min
    same = ids_BL.reshape(rows * count, size, 1) == beside(ids_BL, outside)[:, None, :]
    ahead = jnp.arange(len(offsets) * size)[None, :] - size - jnp.arange(size)[:, None]  # of a key, of its query
    near = (ahead > -window) & (ahead <= 0 if causal else ahead < window)
    q = q_BLHK.reshape(rows * count, size, *q_BLHK.shape[2:])
    y = kernel(q, beside(k_BSHK, 0), beside(v_BSHK, 0), mask=(same & near)[:, None])
    return y.reshape(q_BLHK.shape)
