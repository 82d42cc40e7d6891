"""Cross-entropy over a vocabulary, with a gradient of its own."""

import functools

import jax
import jax.numpy as jnp
from flax import struct

from ptjax.nn.linear import over_rows
from ptjax.types import Array


@struct.dataclass
class TokenScores:
    """Per token, f32[N].

    loss: what is trained, smoothed where asked. lse: log-sum-exp of the logits (for a z-loss). nll: -log p(label),
    never smoothed. correct: 1 where the label has the largest logit. The last two carry no gradient.
    """

    loss: Array
    lse: Array
    nll: Array
    correct: Array


def cross_entropy(
    features_ND: Array, table_VD: Array, bias_V: Array | None, labels_N: Array, *, size: int, smoothing: float = 0.0
) -> TokenScores:
    """Scores of labels under softmax(features . table + bias), without its padding: rows `size` and up of the table.

    features are in the compute dtype, table and bias float32; logits and all sums are float32. smoothing s trains
    towards (1 - s) of the label and s / size of every piece (Szegedy et al., 2016).
    The gradient, softmax minus target in one pass over the kept logits, is faster than the one that autodiff finds,
    by half on a step of a small BERT on a CPU.
    """
    return TokenScores(*_scores(features_ND, table_VD, bias_V, labels_N, size, smoothing))


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _scores(features_ND, table_VD, bias_V, labels_N, size, smoothing):
    return _forward(features_ND, table_VD, bias_V, labels_N, size, smoothing)[0]


def _forward(features_ND, table_VD, bias_V, labels_N, size, smoothing):
    logits_NV = jnp.einsum(
        "nd,vd->nv", features_ND, table_VD.astype(features_ND.dtype), preferred_element_type=jnp.float32
    )
    if bias_V is not None:
        logits_NV = logits_NV + bias_V
    if size < table_VD.shape[0]:
        logits_NV = jnp.where(jnp.arange(table_VD.shape[0]) < size, logits_NV, -1e30)
    best_N = logits_NV.max(axis=1)
    lse_N = best_N + jnp.log(jnp.exp(logits_NV - best_N[:, None]).sum(axis=1))
    label_N = jnp.take_along_axis(logits_NV, labels_N[:, None], axis=1)[:, 0]
    nll_N = lse_N - label_N
    loss_N = nll_N
    if smoothing:
        mean_N = jnp.where(jnp.arange(table_VD.shape[0]) < size, logits_NV, 0.0).sum(axis=1) / size
        loss_N = lse_N - (1 - smoothing) * label_N - smoothing * mean_N
    scores = (loss_N, lse_N, nll_N, (label_N >= best_N).astype(jnp.float32))
    return scores, (features_ND, table_VD, bias_V, labels_N, logits_NV, lse_N)


def _backward(size, smoothing, residuals, cotangents):
    features_ND, table_VD, bias_V, labels_N, logits_NV, lse_N = residuals
    loss_N, through_lse_N = cotangents[0][:, None], cotangents[1][:, None]
    pieces_V = jnp.arange(table_VD.shape[0])
    target_NV = jnp.where(pieces_V == labels_N[:, None], 1.0 - smoothing, 0.0)
    if smoothing:
        target_NV = target_NV + jnp.where(pieces_V < size, smoothing / size, 0.0)
    d_NV = (loss_N + through_lse_N) * jnp.exp(logits_NV - lse_N[:, None]) - loss_N * target_NV
    d_bias = None if bias_V is None else d_NV.sum(axis=0)
    d_NV = d_NV.astype(features_ND.dtype)
    d_features = jnp.einsum("nv,vd->nd", d_NV, table_VD.astype(features_ND.dtype))
    d_table = over_rows(d_NV, features_ND, jnp.float32)
    return d_features, d_table, d_bias, None


_scores.defvjp(_forward, _backward)
