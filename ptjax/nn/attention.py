"""Multi-head attention that honours `Mask`, with a key-value cache for decoding."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from ptjax import platforms
from ptjax.nn.dropout import Dropout
from ptjax.nn.linear import Linear
from ptjax.nn.norm import RMSNorm
from ptjax.nn.rope import Rotation, rotate
from ptjax.partition import constrain
from ptjax.types import Array, Mask


@struct.dataclass
class Cache:
    """Keys and values of one layer: [B, S, H, K] each, filled up to `used` (i32[], the same for every row)."""

    key: Array
    value: Array
    used: Array

    def append(self, key_BLHK: Array, value_BLHK: Array) -> "Cache":
        put = jax.lax.dynamic_update_slice_in_dim
        length = key_BLHK.shape[1]
        return Cache(
            put(self.key, key_BLHK.astype(self.key.dtype), self.used, 1),
            put(self.value, value_BLHK.astype(self.value.dtype), self.used, 1),
            self.used + length,
        )


def allowed(
    mask: Mask,
    length: int,
    keys: int,
    used: Array | None = None,
    *,
    window: int | None = None,
    positions: Array | None = None,
) -> Array | None:
    """The dense form of `mask`: bool, broadcastable to [B, H, L queries, S keys]; None where everything is allowed.

    With a cache, `used` is how many keys it holds after this call, so that query i stands at used - length + i, and
    `valid` describes the S slots of the cache. window: of a layer's own, as in `Attention`.
    positions: i32[B, L], by which the window counts where the row is scattered; None: by places in the row.
    Raises ValueError for what cannot be decoded with a cache: packed documents and a window by positions.
    """
    parts = []
    if window is not None and positions is not None:
        if used is not None:
            raise ValueError("a scattered row is read alone: without a cache")
        parts.append((jnp.abs(positions[:, :, None] - positions[:, None, :]) < window)[:, None])
    elif window is not None:
        place_L = (0 if used is None else used - length) + jnp.arange(length)
        parts.append((jnp.abs(place_L[:, None] - jnp.arange(keys)[None, :]) < window)[None, None])
    if mask.causal or used is not None:
        first = 0 if used is None else used - length
        query_L, key_S = first + jnp.arange(length), jnp.arange(keys)
        limit_L = query_L if mask.causal else jnp.full((length,), first + length - 1)
        before = (key_S[None, :] <= limit_L[:, None])[None, None]
        if mask.causal and mask.prefix is not None:
            before = before | mask.prefix[:, None, None, :]
        parts.append(before)
    if mask.order is not None:
        parts.append(mask.order[:, None, None, :] <= mask.order[:, None, :, None])
    if mask.valid is not None:
        parts.append(mask.valid[:, None, None, :])
    if mask.segments is not None:
        if used is not None:
            raise ValueError("packed segments cannot be decoded with a cache: give one document a row")
        parts.append((mask.segments[:, :, None] == mask.segments[:, None, :])[:, None])
    if not parts:
        return None
    result = parts[0]
    for part in parts[1:]:
        result = result & part
    return result


def attend(
    q_BLHK: Array,
    k_BSHK: Array,
    v_BSHK: Array,
    allowed_BHLS: Array | None,
    dropout,
    *,
    scale: float | None = None,
    bias_BHLS: Array | None = None,
) -> Array:
    """Scaled dot-product attention (Vaswani et al., 2017) -> [B, L, H, K]; softmax in float32. Fewer heads of keys and
    values are shared by queries that stand together.

    scale: of the products, K ** -0.5 unless given. bias_BHLS: added to them, broadcastable to their shape.
    dropout: applied to the attention probabilities. Written out because `jax.nn.dot_product_attention` has no
    dropout and is slower on CPUs; heads are moved forward first, which is faster there than leaving it to einsum.
    """
    if k_BSHK.shape[2] < q_BLHK.shape[2]:
        k_BSHK, v_BSHK = (jnp.repeat(x, q_BLHK.shape[2] // x.shape[2], axis=2) for x in (k_BSHK, v_BSHK))
    q_BHLK, k_BHSK, v_BHSK = (x.transpose(0, 2, 1, 3) for x in (q_BLHK, k_BSHK, v_BSHK))
    q_BHLK = q_BHLK * (q_BHLK.shape[-1] ** -0.5 if scale is None else scale)
    logits_BHLS = jnp.einsum("BHLK,BHSK->BHLS", q_BHLK, k_BHSK, preferred_element_type=jnp.float32)
    if bias_BHLS is not None:
        logits_BHLS = logits_BHLS + bias_BHLS
    if allowed_BHLS is not None:
        # Finite, so that a row of padding, which may attend to nothing, gives numbers that are masked and not NaN.
        logits_BHLS = jnp.where(allowed_BHLS, logits_BHLS, -1e30)
    probs_BHLS = jax.nn.softmax(logits_BHLS, axis=-1).astype(v_BHSK.dtype)
    return jnp.einsum("BHLS,BHSK->BHLK", dropout(probs_BHLS), v_BHSK).transpose(0, 2, 1, 3)


# Places of a block of queries at least, as short ones do not pay; and blocks of a row at most, as each is compiled.
BLOCK, MOST_BLOCKS = 256, 4


def attend_in_blocks(
    q_BLHK: Array, k_BLHK: Array, v_BLHK: Array, allowed_BHLL: Array, dropout, *, causal: bool, window: int | None
) -> Array:
    """`attend`, for a row whose positions see their past or their neighbours alone: block by block of queries, each
    with those keys that any of them may see. Half of the products of a causal row need not be worked out.

    causal, window: as far as `allowed_BHLL`, whose last two axes are whole, has been made with them.
    """
    parts = []
    for queries, keys in blocks(q_BLHK.shape[1], causal=causal, window=window):
        allowed_BHQS = allowed_BHLL[:, :, queries, keys]
        parts.append(attend(q_BLHK[:, queries], k_BLHK[:, keys], v_BLHK[:, keys], allowed_BHQS, dropout))
    return jnp.concatenate(parts, axis=1)


def blocks(length: int, *, causal: bool, window: int | None) -> list[tuple[slice, slice]]:
    """Queries, and the keys that any of them may see."""
    if not causal and window is None:
        return [(slice(length), slice(length))]
    size = max(BLOCK, -(-length // MOST_BLOCKS))
    found = []
    for first in range(0, length, size):
        last = min(first + size, length)
        low = 0 if window is None else max(first - window + 1, 0)
        high = last if causal else min(last + window - 1, length)
        found.append((slice(first, last), slice(low, high)))
    return found


class Attention(nn.Module):
    """Self-attention, [B, L, D] -> [B, L, D]; kernels [D, H, K] and [H, K, D].

    kv_heads: of keys and values, each shared by heads / kv_heads queries (Ainslie et al., 2023); None: all heads. Where
    they are fewer their axis is called so, since a mesh that divides the queries' heads need not divide them.
    head_dim: K; None: D / H. use_bias: of queries, keys and values; out_bias: of the output.
    qk_epsilon: of an RMS norm of each query and key (Henry et al., 2020); None: none.
    window: a position sees those less than so many places to its left, itself among them, and where attention is not
    causal as many to its right; None: all. In a scattered row positions are counted, and not places.
    """

    width: int
    heads: int
    dropout: float
    std: float
    out_std: float
    dtype: jnp.dtype = jnp.float32
    kv_heads: int | None = None
    head_dim: int | None = None
    use_bias: bool = True
    out_bias: bool = True
    qk_epsilon: float | None = None
    window: int | None = None

    def setup(self):
        size = self.head_dim or self.width // self.heads

        def into(heads, name):
            names = ("embed", name, "head_dim")
            return Linear((self.width, heads, size), names, self.std, use_bias=self.use_bias, dtype=self.dtype)

        kv_heads, self.kv_name = self.heads, "heads"
        if self.kv_heads not in (None, self.heads):
            kv_heads, self.kv_name = self.kv_heads, "kv_heads"
        self.query = into(self.heads, "heads")
        self.key, self.value = into(kv_heads, self.kv_name), into(kv_heads, self.kv_name)
        self.output = Linear(
            (self.heads, size, self.width),
            ("heads", "head_dim", "embed"),
            self.out_std,
            contract=2,
            use_bias=self.out_bias,
            dtype=self.dtype,
        )
        if self.qk_epsilon is not None:
            self.query_norm = RMSNorm(self.qk_epsilon, self.dtype)
            self.key_norm = RMSNorm(self.qk_epsilon, self.dtype)
        self.drop = Dropout(self.dropout)

    def __call__(
        self,
        x_BLD: Array,
        mask: Mask,
        cache: Cache | None,
        rotation: Rotation | None = None,
        positions: Array | None = None,
        *,
        train: bool,
    ) -> tuple[Array, Cache | None]:
        """rotation: by which queries and keys turn (`nn.rope`), or None. positions: i32[B, L], of a scattered row, or
        None."""
        q = constrain(self.query(x_BLD), "batch", "length", "heads", "head_dim")
        k, v = (
            constrain(project(x_BLD), "batch", "length", self.kv_name, "head_dim") for project in (self.key, self.value)
        )
        if self.qk_epsilon is not None:
            q, k = self.query_norm(q), self.key_norm(k)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        used = None
        if cache is not None:
            cache = cache.append(k, v)
            k, v, used = cache.key, cache.value, cache.used
        return self.output(self._attend(q, k, v, mask, used, positions, train)), cache

    def _attend(self, q, k, v, mask: Mask, used: Array | None, positions: Array | None, train: bool) -> Array:
        kernel = _fused()
        if kernel is not None and kernel.supports(
            q.shape,
            k.shape,
            q.dtype,
            mask,
            window=self.window,
            positions=positions,
            cache_used=used is not None,
            dropout=self.dropout if train else 0.0,
            bias=False,
        ):
            return kernel.attend(q, k, v, mask, window=self.window)
        drop = lambda probs: self.drop(probs, deterministic=not train)
        allow = allowed(mask, q.shape[1], k.shape[1], used, window=self.window, positions=positions)
        window = self.window if positions is None else None
        causal = mask.causal and mask.prefix is None
        if used is None and (causal or window is not None):
            return attend_in_blocks(q, k, v, allow, drop, causal=causal, window=window)
        return attend(q, k, v, allow, drop)


def _fused():
    """The platform's kernel, a module with `supports` and `attend`; imported where it is used, as Pallas is large."""
    name = platforms.here().attention
    if name == "splash":
        from ptjax.nn import splash

        return splash
    if name == "cudnn":
        from ptjax.nn import cudnn

        return cudnn
    return None
