"""Rotary position embeddings (Su et al., 2021): queries and keys turned by their positions."""

from typing import Any

import jax.numpy as jnp
from flax import struct

from ptjax.types import Array


@struct.dataclass
class Rotation:
    """Cosines and sines, f32[B, L, 1, K] each, of the angles by which the halves of a head of size K turn."""

    cos: Array
    sin: Array


def rotation(positions_BL: Array, frequencies: Any) -> Rotation:
    """frequencies: f32[K / 2], radians a position (`frequencies_of`)."""
    angles_BLF = positions_BL[..., None].astype(jnp.float32) * jnp.asarray(frequencies, jnp.float32)
    angles_BLHK = jnp.concatenate([angles_BLF, angles_BLF], axis=-1)[:, :, None, :]
    return Rotation(jnp.cos(angles_BLHK), jnp.sin(angles_BLHK))


def rotate(x_BLHK: Array, by: Rotation) -> Array:
    """Turns pairs (x_i, x_{i + K/2}), as GPT-NeoX and Llama's Hugging Face form pair them; float32 inside."""
    x = x_BLHK.astype(jnp.float32)
    first, second = jnp.split(x, 2, axis=-1)
    return (x * by.cos + jnp.concatenate([-second, first], axis=-1) * by.sin).astype(x_BLHK.dtype)


def frequencies_of(head_dim: int, theta: float) -> Array:
    """theta ** (-2 i / K) for i < K / 2, radians a position."""
    return theta ** -(jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
