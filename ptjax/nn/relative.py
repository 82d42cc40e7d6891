"""Attention by content and by distance (Dai et al., 2019), in one stream or in two (Yang et al., 2019)."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from ptjax.nn.attention import Cache, allowed, attend
from ptjax.nn.dropout import Dropout
from ptjax.nn.linear import Linear
from ptjax.partition import constrain
from ptjax.types import Array, Memory, TextInput


@struct.dataclass
class View:
    """What the queries of one stream see of S keys: the row behind its memory, or the slots of a cache.

    allowed: bool, broadcastable to [B, H, Q, S]; None: everything. other_type: bool[B, 1, Q, S], whether the key is of
    another sentence type than the query; None: there are no types. at: i32[B, Q], where in the row each query stands;
    None: one at every position. distance: i32[B, Q, S], where the row is scattered; None: places in the row tell it.
    """

    allowed: Array | None
    other_type: Array | None = None
    at: Array | None = None
    distance: Array | None = None


@struct.dataclass
class Relations:
    """What all layers share. encodings: f32[T, D] of distances from a query to a key (positive: the key comes first),
    in falling order. row, targets: of the content stream and of the query stream, if there is one."""

    encodings: Array
    row: View
    targets: View | None


def relate(inputs: TextInput, width: int, state: Memory | Cache | None = None) -> Relations:
    """Distances, which count places in the row, or positions where it is scattered, and who may see whom.

    state: a cache has a leading axis of layers. A memory stands before the row and is seen where it is open, by those
    of the row's first document.
    Raises ValueError for what cannot be decoded with a cache, targets and sentence types, and for a scattered row with
    a state or targets.
    """
    mask, length, used = inputs.mask, inputs.tokens.shape[1], None
    keys = first = length
    if inputs.scattered and not (state is None and inputs.targets is None):
        raise ValueError("a scattered row is read alone: without a cache, a memory or targets")
    if isinstance(state, Cache):
        if inputs.targets is not None or inputs.types is not None:
            raise ValueError("a key-value cache holds neither targets nor sentence types: read the text as a row")
        used = state.used[0] + length
        keys, first = state.key.shape[2], used
    view = View(allowed(mask, length, keys, used))
    if isinstance(state, Memory):
        view = View(_behind_memory(view.allowed, mask.segments, state.open, length))
        keys = first = view.allowed.shape[-1]
    if inputs.types is not None:
        view = view.replace(other_type=(inputs.types[:, :, None] != inputs.types[:, None, :])[:, None])
    if inputs.scattered:
        view = view.replace(distance=inputs.positions[:, :, None] - inputs.positions[:, None, :])
    targets = None if inputs.targets is None else _of_targets(view, inputs.targets, mask.order, length)
    # Distances to keys that come later are left out where no query sees one.
    behind_only = mask.causal and mask.prefix is None and targets is None and not inputs.scattered
    distances_T = first - jnp.arange(keys + 1 if behind_only else keys + length)
    return Relations(sinusoids(distances_T, width), view, targets)


def _behind_memory(allowed_BHLL: Array | None, segments_BL: Array | None, open_BM: Array, length: int) -> Array:
    rows = open_BM.shape[0]
    first_BL = jnp.ones((rows, length), bool) if segments_BL is None else segments_BL == segments_BL[:, :1]
    memory_BHLM = first_BL[:, None, :, None] & open_BM[:, None, None, :]
    row_BHLL = jnp.broadcast_to(True if allowed_BHLL is None else allowed_BHLL, (rows, 1, length, length))
    return jnp.concatenate([memory_BHLM, row_BHLL], axis=-1)


def _of_targets(view: View, at_BP: Array, order_BL: Array | None, length: int) -> View:
    """What their positions see less themselves and, in a permuted order, whatever has their own rank."""
    pick = lambda x_BHLS: jnp.take_along_axis(x_BHLS, at_BP[:, None, :, None], axis=2)
    shape = (at_BP.shape[0], 1, length, length)
    allowed_BHPL = at_BP[:, None, :, None] != jnp.arange(length)
    if view.allowed is not None:
        allowed_BHPL &= pick(jnp.broadcast_to(view.allowed, shape))
    if order_BL is not None:
        allowed_BHPL &= order_BL[:, None, None, :] < jnp.take_along_axis(order_BL, at_BP, axis=1)[:, None, :, None]
    return View(allowed_BHPL, None if view.other_type is None else pick(view.other_type), at_BP)


def sinusoids(distances_T: Array, width: int) -> Array:
    """f32[T, D]: sines, then cosines, of the distances at wavelengths from 2 pi to 10000 * 2 pi."""
    frequency = 10000.0 ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    angle = distances_T.astype(jnp.float32)[:, None] * frequency
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)[:, :width]


def by_distance(scores_HBQT: Array, view: View, length: int, keys: int) -> Array:
    """From a score for each distance to one for each key, [H, B, Q, S].

    Distances fall from `d` to the first key of the query that would stand at `length`; so the query at position l
    finds its keys at length - l and after, without a gather where there is one query at every position. Those of a
    scattered row, which has no memory, fall from `length`, and each key is looked up.
    """
    if view.distance is not None:
        return jnp.take_along_axis(scores_HBQT, (length - view.distance)[None], axis=-1)
    if view.at is None:
        *rows, queries, distances = scores_HBQT.shape
        shifted = scores_HBQT.reshape(*rows, distances, queries)[:, :, 1:]
        return shifted.reshape(*rows, queries, distances - 1)[..., :keys]
    window = lambda scores_T, at: jax.lax.dynamic_slice_in_dim(scores_T, length - at, keys, axis=-1)
    return jax.vmap(jax.vmap(window, (1, 0), 1), (1, 0), 1)(scores_HBQT, view.at)


class RelativeAttention(nn.Module):
    """Self-attention with scores (q + u) . k + (q + v) . W_r R(i - j), and no other biases.

    With `types` a term (q + s) . e is added, of a vector e for keys of the query's sentence type and one for others
    (XLNet), wherever the input has types. The authors' names: content_bias is u (r_w_bias), position_bias v (r_r_bias),
    type_bias s (r_s_bias), type_keys e (seg_embed), distance W_r (r, r_net).
    """

    width: int
    heads: int
    dropout: float
    std: float
    types: bool
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        size, names = self.width // self.heads, ("embed", "heads", "head_dim")
        project = lambda: Linear((self.width, self.heads, size), names, self.std, use_bias=False, dtype=self.dtype)
        self.query, self.key, self.value, self.distance = (project() for _ in range(4))
        shape, names = (self.heads, size, self.width), names[1:] + names[:1]
        self.output = Linear(shape, names, self.std, contract=2, use_bias=False, dtype=self.dtype)
        vectors = lambda name, *more: self.param(
            name,
            nn.with_logical_partitioning(
                nn.initializers.normal(self.std), ("type", "heads", "head_dim")[-2 - len(more) :]
            ),
            (*more, self.heads, size),
            jnp.float32,
        )
        self.content_bias, self.position_bias = vectors("content_bias"), vectors("position_bias")
        if self.types:
            self.type_bias, self.type_keys = vectors("type_bias"), vectors("type_keys", 2)
        self.drop = Dropout(self.dropout)

    def __call__(
        self,
        row_BLD: Array,
        targets_BPD: Array | None,
        relations: Relations,
        cache: Cache | Array | None,
        *,
        train: bool,
    ) -> tuple[Array, Array | None, Cache | Array | None]:
        """([B, L, D], [B, P, D] or None, cache): what the row and the targets read, both from the row.

        cache: keys and values so far, or a memory [B, M, D] that comes before the row; returned brought up to date.
        """
        keys_BSD = row_BLD
        if isinstance(cache, Array):
            keys_BSD = jnp.concatenate([cache, row_BLD], axis=1)
            cache = keys_BSD[:, -cache.shape[1] :]
        k, v = self.key(keys_BSD), self.value(keys_BSD)
        if isinstance(cache, Cache):
            cache = cache.append(k, v)
            k, v = cache.key, cache.value
        r_THK = self.distance(relations.encodings)
        length = row_BLD.shape[1]
        read = lambda x_BQD, view: self._read(x_BQD, k, v, r_THK, view, length, train)
        y_BLD = read(row_BLD, relations.row)
        if targets_BPD is None:
            return y_BLD, None, cache
        y_BPD = read(targets_BPD, relations.targets)
        # The first of an order may see nothing at all, and then reads nothing.
        sees_BP1 = relations.targets.allowed.any(axis=(1, 3))[..., None]
        return y_BLD, jnp.where(sees_BP1, y_BPD, 0), cache

    def _read(self, x_BQD: Array, k_BSHK, v_BSHK, r_THK: Array, view: View, length: int, train: bool) -> Array:
        q_BQHK = constrain(self.query(x_BQD), "batch", "length", "heads", "head_dim")
        plus = lambda bias_HK: q_BQHK + bias_HK.astype(self.dtype)
        scale = q_BQHK.shape[-1] ** -0.5
        # Heads first, as the product comes out: it is turned around where it is added.
        scores_HBQT = jnp.einsum(
            "BQHK,THK->HBQT", plus(self.position_bias) * scale, r_THK, preferred_element_type=jnp.float32
        )
        bias_BHQS = by_distance(scores_HBQT, view, length, k_BSHK.shape[1]).transpose(1, 0, 2, 3)
        if view.other_type is not None:
            types_EHK = self.type_keys.astype(self.dtype)
            same, other = jnp.einsum(
                "BQHK,EHK->EBHQ", plus(self.type_bias) * scale, types_EHK, preferred_element_type=jnp.float32
            )
            bias_BHQS = bias_BHQS + jnp.where(view.other_type, other[..., None], same[..., None])
        drop = lambda probs: self.drop(probs, deterministic=not train)
        y_BQHK = attend(plus(self.content_bias), k_BSHK, v_BSHK, view.allowed, drop, bias_BHLS=bias_BHQS)
        return self.output(y_BQHK)
