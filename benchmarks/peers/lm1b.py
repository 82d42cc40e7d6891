"""Flax's lm1b example: its own models.py, of a checkout whose folder $LM1B_DIR names, its loss, and optax.adamw.

Its model differs: sinusoidal positions, ReLU, no biases in attention; its loss is against one-hot targets.
"""

import os
import sys

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax.training import common_utils
from flax.training.train_state import TrainState

from . import worker
from .items import batches


def main() -> None:
    arguments = worker.arguments()
    item, dropout = arguments.item, arguments.dropout
    worker.only("causal", item)
    sys.path.insert(0, os.environ["LM1B_DIR"])
    import models

    config = models.TransformerConfig(
        vocab_size=item.vocab,
        output_vocab_size=item.vocab,
        logits_via_embedding=True,
        emb_dim=item.width,
        num_heads=item.heads,
        num_layers=item.layers,
        qkv_dim=item.width,
        mlp_dim=item.hidden,
        max_len=item.length,
        dropout_rate=dropout,
        attention_dropout_rate=dropout,
        deterministic=dropout == 0,
    )
    model, data = models.TransformerLM(config), [batch["tokens"] for batch in batches(item)]
    keys = dict(params=jax.random.key(0), dropout=jax.random.key(1))
    params = nn.unbox(jax.jit(model.init)(keys, data[0]))["params"]
    b1, b2 = worker.BETAS
    adam = optax.adamw(worker.RATE, b1=b1, b2=b2, eps=worker.EPSILON, weight_decay=worker.DECAY)

    def train(state, ids, key):
        key = jax.random.fold_in(key, state.step)

        def loss_of(params):  # the model shifts its inputs
            logits = state.apply_fn({"params": params}, ids, rngs={"dropout": key})
            weights = jnp.where(ids > 0, 1, 0).astype(jnp.float32)
            loss = -(common_utils.onehot(ids, item.vocab) * nn.log_softmax(logits)).sum(-1) * weights
            return loss.sum() / weights.sum()

        loss, grads = jax.value_and_grad(loss_of)(state.params)
        return state.apply_gradients(grads=grads), loss

    state = TrainState.create(apply_fn=model.apply, params=params, tx=adam)
    compiled, key = jax.jit(train, donate_argnums=0), jax.random.key(2)

    def step(i: int) -> float:
        nonlocal state
        state, loss = compiled(state, data[i % len(data)], key)
        return float(loss)

    worker.serve(step, "jax", "flax", "optax")


if __name__ == "__main__":
    main()
