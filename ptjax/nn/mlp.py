"""The feed-forward half of a transformer layer."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn

from ptjax.nn.linear import Linear
from ptjax.partition import constrain
from ptjax.types import Array


class Mlp(nn.Module):
    """[B, L, D] -> [B, L, D] through `hidden` units. out_std: initial deviation of the second kernel."""

    width: int
    hidden: int
    activation: Callable[[Array], Array]
    std: float
    out_std: float
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.up = Linear((self.width, self.hidden), ("embed", "mlp"), self.std, dtype=self.dtype)
        self.down = Linear((self.hidden, self.width), ("mlp", "embed"), self.out_std, dtype=self.dtype)

    def __call__(self, x_BLD: Array) -> Array:
        h_BLF = constrain(self.activation(self.up(x_BLD)), "batch", "length", "mlp")
        return self.down(h_BLF)
