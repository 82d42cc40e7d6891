"""Questions put outside a run, and what a body can see of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ptjax.models import GPT
from ptjax.models.heads import init
from ptjax.objectives.base import CorruptContext
from tests.contracts import cases

BODY = GPT(**cases.SIZE)
ORDINARY = np.arange(len(cases.VOCAB.special_ids), cases.VOCAB.size)


@functools.cache
def _compiled(objective, vocab):
    @jax.jit
    def run(batch, step, progress):
        key = lambda *path: jax.vmap(lambda i: functools.reduce(jax.random.fold_in, [*path, i], jax.random.key(7)))
        index = batch["index"].astype(jnp.uint32)
        return objective.corrupt(batch, CorruptContext(vocab, key(0, step)(index), key(1)(index), step, progress))

    return run


def pose(objective, batch, step=0, progress=0.0, vocab=cases.VOCAB) -> dict[str, np.ndarray]:
    """The corrupted batch."""
    return jax.device_get(_compiled(objective, vocab)(batch, np.int32(step), np.float32(progress)))


def text(rows: int, length: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Rows of ordinary tokens and nothing else."""
    tokens = np.random.default_rng(seed).choice(ORDINARY, (rows, length)).astype(np.int32)
    return {"index": np.arange(rows, dtype=np.int32), "tokens": tokens}


@functools.cache
def net_of(objective):
    """(net, params) on a small GPT body, with parameters large enough to tell contexts apart."""
    net = objective.net(BODY, cases.VOCAB)
    params = jax.jit(lambda: init(net, jax.random.key(0), cases.LENGTH))()
    return net, jax.tree.map(lambda x: 4 * x if x.ndim > 1 else x, params)


def log_probs(objective, batch) -> np.ndarray:
    """f64[B, L, V] by a plain forward pass."""
    net, params = net_of(objective)
    logits = jax.jit(lambda batch: net.apply({"params": params}, objective.inputs(batch, cases.VOCAB)))(batch)
    logits = np.asarray(logits, np.float64)[..., : cases.VOCAB.size]
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def seen(inputs) -> np.ndarray:
    """bool[B, L, L]: the hidden state at i has a gradient that is not zero from the input at j."""
    body = BODY.build(BODY.padded_vocab(cases.VOCAB.size))

    @jax.jit
    def reach(inputs):
        params = body.init(jax.random.key(0), inputs, train=False)
        embedded = body.apply(params, inputs, method="embedding")
        # A random direction: the norm's outputs sum to zero.
        out = jax.random.normal(jax.random.key(1), embedded.shape[-1:])
        read = lambda e: (body.apply(params, inputs, train=False, embedded=e).last @ out).sum(axis=0)
        return jnp.abs(jax.jacrev(read)(embedded)).sum(axis=-1).swapaxes(0, 1)  # rows do not touch each other

    return np.asarray(reach(inputs)) > 0


def documents(tokens_L, vocab=cases.VOCAB) -> list[int]:
    """The document of each token of a row, by a loop; -1 for padding."""
    number, result = 0, []
    for token in tokens_L:
        number += token == vocab.boundary_id and vocab.boundary_side == "begin"
        result.append(-1 if token == vocab.pad_id else number)
        number += token == vocab.boundary_id and vocab.boundary_side == "end"
    return result
