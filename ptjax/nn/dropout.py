"""Dropout (Srivastava et al., 2014) whose bits are a hash of where they stand, so that they cost next to nothing."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from ptjax.types import Array


class Dropout(nn.Module):
    """Sets a share `rate` of the numbers to 0 and divides the others by what is left of them, 1 - rate. Draws from the
    stream 'dropout'."""

    rate: float

    def __call__(self, x: Array, *, deterministic: bool) -> Array:
        if deterministic or not self.rate:
            return x
        scale = jnp.asarray(1 / (1 - self.rate), x.dtype)
        return jnp.where(kept(self.make_rng("dropout"), x.shape, self.rate), x * scale, 0)


def kept(key: Array, shape: tuple[int, ...], rate: float) -> Array:
    """bool[shape], each True with probability 1 - rate (to 2**-32); a pure function of key, place and shape.

    A place is hashed by a 32-bit integer permutation of two multiplications, the second word of the key entering
    between them; rows of the first axis have keys of their own, so that places of large arrays do not run out of 32
    bits. Constants: Wellons, 2018, 'Prospecting for hash functions' (lowbias32). Such bits are no match for those of
    `jax.random`, but they are fused into what reads them, where those are written to memory and read again: a third of
    a training step on CPUs. What masks must not have (a bias, a pattern along an axis, something in common with those
    of another key or row) is tested.
    """
    first, second = jax.random.key_data(key).astype(jnp.uint32)[..., :2]
    row_B = jax.lax.iota(jnp.uint32, shape[0]) * jnp.uint32(0x9E3779B9)
    first_B, second_B = _mixed(row_B ^ first, second), _mixed(row_B + second, first)
    place = jnp.zeros((), jnp.uint32)
    for axis in range(1, len(shape)):
        place = place * jnp.uint32(shape[axis]) + jax.lax.broadcasted_iota(jnp.uint32, (1, *shape[1:]), axis)
    ones = (1,) * (len(shape) - 1)
    word = _mixed(place ^ first_B.reshape(-1, *ones), second_B.reshape(-1, *ones))
    return word >= jnp.uint32(min(round(rate * 2**32), 2**32 - 1))


def _mixed(x: Array, key: Array) -> Array:
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = x ^ key
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
