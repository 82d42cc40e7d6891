"""DeBERTa's disentangled attention (He et al., 2021): by content, and by the bucket of the distance."""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct

from ptjax.nn.attention import Cache, allowed, attend
from ptjax.nn.dropout import Dropout
from ptjax.nn.linear import Linear
from ptjax.partition import constrain
from ptjax.types import Array, TextInput


def buckets_of(distance: np.ndarray, *, buckets: int, furthest: int) -> np.ndarray:
    """int32, the shape of `distance`: the row, of 2 n, of the vector that belongs to query's position - key's.

    Up to buckets / 2 on either side each distance has a row, from there to `furthest` there are logarithmically wider
    ones; n = buckets. buckets = 0: each distance has its row, and n = furthest. What is further has the last row.
    """
    rows = buckets or furthest
    if buckets:
        exact = buckets // 2
        # In float32, as published: the bucket of a distance on a border depends on it.
        ratio = np.log(np.maximum(np.abs(distance), exact).astype(np.float32) / np.float32(exact))
        ratio = ratio / np.log(np.float32((furthest - 1) / exact)) * np.float32(exact - 1)
        far = np.sign(distance) * (exact + np.ceil(ratio))
        distance = np.where(np.abs(distance) <= exact, distance, far)
    return np.clip(distance + rows, 0, 2 * rows - 1).astype(np.int32)


@struct.dataclass
class Distances:
    """What all layers share of S keys: the row, or the slots of a cache.

    allowed: bool, broadcastable to [B, H, Q, S]; None: everything. vectors: f32[T, D], of buckets of distances.
    bucket: i32[B or 1, Q, S], which of them is of a query's distance to a key.
    """

    allowed: Array | None
    vectors: Array
    bucket: Array


def apart(inputs: TextInput) -> Array:
    """i32[B or 1, L, L]: query's place in the row less key's, or positions where the row is scattered."""
    place_BL = inputs.positions if inputs.scattered else np.arange(inputs.tokens.shape[1])[None]
    return place_BL[:, :, None] - place_BL[:, None, :]


def distances(inputs: TextInput, vectors_TD: Array, cache: Cache | None, *, buckets: int, furthest: int) -> Distances:
    """vectors_TD: of all buckets, of which those are kept that S keys can need. cache: with a leading axis of layers.

    Raises ValueError for a scattered row with a cache.
    """
    length = keys = inputs.tokens.shape[1]
    used = None
    if cache is None:
        between_BQS = apart(inputs)
    elif inputs.scattered:
        raise ValueError("a scattered row is read alone: without a cache")
    else:
        used, keys = cache.used[0] + length, cache.key.shape[2]
        between_BQS = (used - length + np.arange(length))[None, :, None] - np.arange(keys)
    # From a table of constants: a logarithm on the device might round to another bucket.
    row_of = buckets_of(np.arange(-keys, keys + 1), buckets=buckets, furthest=furthest)
    bucket_BQS = jnp.asarray(row_of - row_of[0])[jnp.clip(between_BQS + keys, 0, 2 * keys)]
    return Distances(allowed(inputs.mask, length, keys, used), vectors_TD[row_of[0] : row_of[-1] + 1], bucket_BQS)


class DisentangledAttention(nn.Module):
    """Self-attention with scores (q . k + q . W_k P + k . W_q P) / sqrt(3 K), P the vector of the distance i - j from
    query i to key j; [B, L, D] -> [B, L, D], kernels [D, H, K] and [H, K, D].

    Vectors of distances go through the kernels and biases of content (the authors' share_att_key). Where the paper has
    the distance j - i in the last term, the authors' code has i - j, and so have their models.
    """

    width: int
    heads: int
    dropout: float
    distance_dropout: float
    std: float
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        size, names = self.width // self.heads, ("embed", "heads", "head_dim")
        into = lambda: Linear((self.width, self.heads, size), names, self.std, dtype=self.dtype)
        self.query, self.key, self.value = into(), into(), into()
        shape, names = (self.heads, size, self.width), names[1:] + names[:1]
        self.output = Linear(shape, names, self.std, contract=2, dtype=self.dtype)
        self.drop, self.distance_drop = Dropout(self.dropout), Dropout(self.distance_dropout)

    def __call__(
        self, x_BLD: Array, distances: Distances, cache: Cache | None, *, train: bool
    ) -> tuple[Array, Cache | None]:
        q, k, v = (
            constrain(project(x_BLD), "batch", "length", "heads", "head_dim")
            for project in (self.query, self.key, self.value)
        )
        if cache is not None:
            cache = cache.append(k, v)
            k, v = cache.key, cache.value
        vectors_TD = self.distance_drop(distances.vectors, deterministic=not train)
        scale = (3 * q.shape[-1]) ** -0.5
        score = lambda x_BLHK, project: jnp.einsum(
            "BLHK,THK->BHLT", x_BLHK * scale, project(vectors_TD), preferred_element_type=jnp.float32
        )
        # A score for each bucket, of which each pair of places takes its own.
        bucket_BHQS = distances.bucket[:, None]
        by_query_BHQS = jnp.take_along_axis(score(q, self.key), bucket_BHQS, axis=-1)
        by_key_BHSQ = jnp.take_along_axis(score(k, self.query), bucket_BHQS.swapaxes(2, 3), axis=-1)
        bias_BHQS = by_query_BHQS + by_key_BHSQ.swapaxes(2, 3)
        drop = lambda probs: self.drop(probs, deterministic=not train)
        y_BLHK = attend(q, k, v, distances.allowed, drop, scale=scale, bias_BHLS=bias_BHQS)
        return self.output(y_BLHK), cache


def neighbours(x_BLD: Array, allowed_BHLL: Array | None, between_BLL: Array, taps: int) -> Array:
    """[B, L, D, W]: what a convolution of so many taps reads around each position, in order.

    A position reads only those neighbours that it may see: not padding, not other documents and, where attention is
    causal, not what follows. between_BLL: as `apart` gives it.
    """
    offset_W = taps // 2 - np.arange(taps)
    read_BWLL = jnp.asarray(between_BLL)[:, None] == offset_W[:, None, None]
    if allowed_BHLL is not None:
        read_BWLL = read_BWLL & allowed_BHLL
    # Choosing by a product serves every kind of row, and costs no more than one layer's attention.
    return jnp.einsum("BWLS,BSD->BLDW", read_BWLL.astype(x_BLD.dtype), x_BLD)
