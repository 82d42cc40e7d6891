"""T5's attention (Raffel et al., 2020): products without a scale, plus a learned bias for each distance and head."""

import math

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ptjax.nn.attention import attend
from ptjax.nn.dropout import Dropout
from ptjax.nn.linear import Linear
from ptjax.partition import constrain
from ptjax.types import Array


def buckets_of(distance: np.ndarray, *, bidirectional: bool, buckets: int, furthest: int) -> np.ndarray:
    """int32, the shape of `distance` = key's position - query's: which of `buckets` biases a pair takes.

    Near distances have one bucket each, further ones logarithmically wider ones, all from `furthest` on the last.
    bidirectional: half of the buckets are for what comes after; otherwise all that comes after is in bucket 0.
    """
    after = 0
    if bidirectional:
        buckets //= 2
        after = np.where(distance > 0, buckets, 0)
        distance = np.abs(distance)
    else:
        distance = np.maximum(-distance, 0)
    exact = buckets // 2
    # In float32, as published: the bucket of a distance on a border depends on it.
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact)) / math.log(furthest / exact)
    far = np.minimum(exact + (ratio * (buckets - exact)).astype(np.int32), buckets - 1)
    return (after + np.where(distance < exact, distance, far)).astype(np.int32)


class RelativeBias(nn.Module):
    """What the layers of a stack add to their attention, f32[1, H, L, L].

    Distances are those in the row: within a document, which attention does not leave, they are the document's own.
    """

    heads: int
    bidirectional: bool
    buckets: int
    furthest: int
    std: float

    @nn.compact
    def __call__(self, length: int) -> Array:
        init = nn.with_logical_partitioning(nn.initializers.normal(self.std), ("heads", "bucket"))
        table_HN = self.param("table", init, (self.heads, self.buckets), jnp.float32)
        place_L = np.arange(length)
        bucket_LL = buckets_of(
            place_L[None, :] - place_L[:, None],
            bidirectional=self.bidirectional,
            buckets=self.buckets,
            furthest=self.furthest,
        )
        return table_HN[:, bucket_LL][None]


class BiasedAttention(nn.Module):
    """Attention of x to `memory`, which is x itself in self-attention; [B, L, D] -> [B, L, D], no biases.

    factor: of the published initial deviations, (D K) ** -0.5 for queries, where the missing scale is made up for,
    D ** -0.5 for keys and values, (H K) ** -0.5 for the output.
    """

    width: int
    heads: int
    head_dim: int
    dropout: float
    factor: float
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        shape, names = (self.width, self.heads, self.head_dim), ("embed", "heads", "head_dim")
        rest = dict(use_bias=False, dtype=self.dtype)
        std = self.factor * self.width**-0.5
        self.query = Linear(shape, names, std * self.head_dim**-0.5, **rest)
        self.key = Linear(shape, names, std, **rest)
        self.value = Linear(shape, names, std, **rest)
        out_std = self.factor * (self.heads * self.head_dim) ** -0.5
        self.output = Linear(shape[1:] + shape[:1], names[1:] + names[:1], out_std, contract=2, **rest)
        self.drop = Dropout(self.dropout)

    def __call__(
        self, x_BLD: Array, memory_BSD: Array, allowed_BHLS: Array | None, bias_BHLS: Array | None, *, train: bool
    ) -> Array:
        divided = lambda y: constrain(y, "batch", "length", "heads", "head_dim")
        q, k, v = divided(self.query(x_BLD)), divided(self.key(memory_BSD)), divided(self.value(memory_BSD))
        drop = lambda p: self.drop(p, deterministic=not train)
        return self.output(attend(q, k, v, allowed_BHLS, drop, scale=1.0, bias_BHLS=bias_BHLS))
