"""Fused attention on TPUs: jax's Splash kernel, which never writes out the [L, S] products and skips the blocks that a
causal mask or a window leaves empty."""

import functools

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention as splash

from ptjax.nn.fused import documents, honours, per_head
from ptjax.types import Array, Mask

LANES = 128  # blocks are multiples of the width of a TPU's registers
# Of queries and keys, forward and backward: MaxText's default for all TPUs (its base.yml, sa_block_q and the others).
LARGEST_BLOCK = 512
# In shorter rows XLA's own fusions want less memory than the kernel: 48 against 97 MiB for forward and backward of 32
# rows of 256 tokens, 12 heads, on a v5e; from here on the kernel does (97 against 193), and at 1024 a sixth.
SHORTEST = 512


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
    """Whether `attend` gives exactly what is asked, and is worth it, from shapes and structure alone.

    q_shape: (B, L, H, K). k_shape: (B, S, heads of keys, K). bias: whether one is added to the products.
    """
    length = q_shape[1]
    return (
        honours(mask, window=window, positions=positions, cache_used=cache_used, dropout=dropout, bias=bias)
        and dtype in (jnp.float32, jnp.bfloat16)
        and length == k_shape[1]
        and length >= SHORTEST
        and length % LANES == 0
    )


def attend(
    q_BLHK: Array,
    k_BSHK: Array,
    v_BSHK: Array,
    mask: Mask,
    *,
    scale: float | None = None,
    window: int | None = None,
    interpret: bool = False,
) -> Array:
    """Scaled dot-product attention -> [B, L, H, K], of what `supports`.

    scale, window: as in `nn.attention`. interpret: runs the kernel on any machine, slowly.
    """
    q_BLHK = q_BLHK * (q_BLHK.shape[-1] ** -0.5 if scale is None else scale)
    kernel = functools.partial(_attend, causal=mask.causal, window=window, interpret=interpret)
    return per_head(kernel, q_BLHK, k_BSHK, v_BSHK, documents(mask))


def _attend(q_BLHK, k_BSHK, v_BSHK, ids_BL, *, causal, window, interpret):
    length, heads = q_BLHK.shape[1:3]
    kernel = splash.make_splash_mha(
        splash.MultiHeadMask([_mask(length, causal, window)] * heads),
        block_sizes=_blocks(length),
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
    ids = None if ids_BL is None else splash.SegmentIds(ids_BL, ids_BL)
    heads_first = (x.transpose(0, 2, 1, 3) for x in (q_BLHK, k_BSHK, v_BSHK))
    return jax.vmap(kernel)(*heads_first, ids).transpose(0, 2, 1, 3)


def _mask(length: int, causal: bool, window: int | None) -> splash.Mask:
    shape = (length, length)
    if window is not None:
        return splash.LocalMask(shape, (window - 1, 0 if causal else window - 1), offset=0)
    return splash.CausalMask(shape) if causal else splash.FullMask(shape)


def _blocks(length: int) -> splash.BlockSizes:
    size = max(size for size in range(LANES, LARGEST_BLOCK + 1, LANES) if length % size == 0)
    names = ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")
    return splash.BlockSizes(**{f"block_{name}": size for name in names})
