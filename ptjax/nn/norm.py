"""Normalisation of activations over their width."""

import jax.numpy as jnp
from flax import linen as nn


def layer_norm(epsilon: float, dtype: jnp.dtype, use_bias: bool = True) -> nn.LayerNorm:
    """LayerNorm (Ba et al., 2016): statistics in float32 by the two-pass variance, the result in `dtype`."""
    return nn.LayerNorm(
        epsilon=epsilon,
        dtype=dtype,
        use_bias=use_bias,
        use_fast_variance=False,
        scale_init=nn.with_logical_partitioning(nn.initializers.ones, ("norm",)),
        bias_init=nn.with_logical_partitioning(nn.initializers.zeros, ("norm",)),
    )


def rms_norm(epsilon: float, dtype: jnp.dtype) -> nn.RMSNorm:
    """RMSNorm (Zhang and Sennrich, 2019): no mean and no bias; statistics in float32, the result in `dtype`."""
    return nn.RMSNorm(
        epsilon=epsilon,
        dtype=dtype,
        scale_init=nn.with_logical_partitioning(nn.initializers.ones, ("norm",)),
    )
