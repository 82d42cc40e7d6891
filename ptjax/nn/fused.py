"""What the fused attention kernels share: which masks they honour, padding as one more document, and a mesh."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from ptjax import partition
from ptjax.types import Array, Mask

PADDING = -1  # documents are numbered from 0 up


def honours(mask: Mask, *, window: int | None, positions: Array | None, cache_used: bool, dropout: float, bias: bool):
    """Whether documents, padding, causality and a window by places are all that is asked. Attention dropout is not:
    it would have to be drawn inside the kernel."""
    structure = mask.prefix is None and mask.order is None and (window is None or positions is None)
    return structure and not (cache_used or dropout > 0 or bias)


def documents(mask: Mask) -> Array | None:
    """i32[B, L], equal where two positions may see each other, or None where all may. A position of padding sees
    padding alone, so that its numbers, which nothing reads, are finite."""
    if mask.valid is None:
        return mask.segments
    return jnp.where(mask.valid, 0 if mask.segments is None else mask.segments, PADDING)


def per_head(kernel: Callable[..., Array], q_BLHK: Array, k_BSHK: Array, v_BSHK: Array, ids_BL: Array | None) -> Array:
    """kernel(q, k, v, ids) -> [B, L, H, K], on a mesh each device with its own rows and heads, since the partitioner
    cannot divide a kernel. Keys and values may have fewer heads than queries."""
    active = partition.active()
    if active is None:
        return kernel(q_BLHK, k_BSHK, v_BSHK, ids_BL)
    mesh, rules = active
    heads = None if rules.heads in partition.BATCH_AXES else rules.heads
    if k_BSHK.shape[2] != q_BLHK.shape[2] and rules.kv_heads != heads:
        # A device's queries would not stand beside the keys that they share.
        k_BSHK, v_BSHK = (jnp.repeat(x, q_BLHK.shape[2] // x.shape[2], axis=2) for x in (k_BSHK, v_BSHK))
    own, rows = PartitionSpec(partition.BATCH_AXES, None, heads), PartitionSpec(partition.BATCH_AXES)
    # Without the check of what varies over which axis, which kernels do not spell out.
    local = jax.shard_map(kernel, mesh=mesh, in_specs=(own, own, own, rows), out_specs=own, check_vma=False)
    return local(q_BLHK, k_BSHK, v_BSHK, ids_BL)
