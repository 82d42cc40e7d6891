"""Normalisation of activations over their width, with gradients of their own."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from ptjax.types import Array


class LayerNorm(nn.Module):
    """LayerNorm (Ba et al., 2016) over the last axis: statistics in float32 by the two-pass variance, the result in
    `dtype`; parameters 'scale' and 'bias', f32[D]."""

    epsilon: float
    dtype: jnp.dtype = jnp.float32
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = _parameter(self, "scale", nn.initializers.ones, x.shape[-1])
        bias = _parameter(self, "bias", nn.initializers.zeros, x.shape[-1]) if self.use_bias else None
        return _normalised(x, scale, bias, self.epsilon, True, jnp.dtype(self.dtype))


class RMSNorm(nn.Module):
    """RMSNorm (Zhang and Sennrich, 2019) over the last axis: no mean and no bias; statistics in float32, the result in
    `dtype`; parameter 'scale', f32[D]."""

    epsilon: float
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = _parameter(self, "scale", nn.initializers.ones, x.shape[-1])
        return _normalised(x, scale, None, self.epsilon, False, jnp.dtype(self.dtype))


def _parameter(module: nn.Module, name: str, init, width: int) -> Array:
    return module.param(name, nn.with_logical_partitioning(init, ("norm",)), (width,), jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _normalised(x, scale_D, bias_D, epsilon, centred, dtype):
    return _forward(x, scale_D, bias_D, epsilon, centred, dtype)[0]


def _forward(x, scale_D, bias_D, epsilon, centred, dtype):
    mean, inverse = _statistics(x, epsilon, centred)
    y = (x.astype(jnp.float32) - mean) * (inverse * scale_D)
    if bias_D is not None:
        y = y + bias_D
    return y.astype(dtype), (x, mean, inverse, scale_D, bias_D)


def _statistics(x, epsilon, centred):
    x = x.astype(jnp.float32)
    mean = x.mean(axis=-1, keepdims=True) if centred else jnp.float32(0)
    variance = jnp.square(x - mean).mean(axis=-1, keepdims=True)
    return mean, jax.lax.rsqrt(variance + epsilon)


def _backward(epsilon, centred, dtype, residuals, dy):
    """Two sums a row, where autodiff goes back through each of the statistics."""
    x, mean, inverse, scale_D, bias_D = residuals
    dy = dy.astype(jnp.float32)
    unit = (x.astype(jnp.float32) - mean) * inverse
    rows = tuple(range(x.ndim - 1))
    d_unit = dy * scale_D
    through_scale = (d_unit * unit).mean(axis=-1, keepdims=True)
    through_mean = d_unit.mean(axis=-1, keepdims=True) if centred else 0
    dx = inverse * (d_unit - through_mean - unit * through_scale)
    d_bias = None if bias_D is None else dy.sum(axis=rows)
    return dx.astype(x.dtype), (dy * unit).sum(axis=rows), d_bias


_normalised.defvjp(_forward, _backward)
