"""Levanter (marin-levanter): its GPT-2, its AdamConfig and its TrainerState.take_step, without trackers and hooks.

Its attention has no dropout, which is less work than everyone else's. --options: remat, its default.
"""

import sys

import equinox
import haliax
import jax
import numpy as np
from haliax import Axis
from levanter.layers.attention import AttentionMask
from levanter.models.gpt2 import Gpt2Config
from levanter.models.lm_model import LmExample
from levanter.optim.config import AdamConfig
from levanter.trainer_state import TrainerState

from . import worker
from .items import batches


def main() -> None:
    arguments = worker.arguments()
    item, dropout = arguments.item, arguments.dropout
    worker.only("causal", item)
    if item.hidden != 4 * item.width:
        sys.exit("its hidden size is four times its width")
    config = Gpt2Config(
        max_seq_len=item.length,
        hidden_dim=item.width,
        num_layers=item.layers,
        num_heads=item.heads,
        embed_pdrop=dropout,
        resid_pdrop=dropout,
        attn_pdrop=dropout,
        gradient_checkpointing="remat" in arguments.options,
    )
    (beta1, beta2), position = worker.BETAS, config.max_Pos
    optimizer = AdamConfig(
        learning_rate=worker.RATE,
        beta1=beta1,
        beta2=beta2,
        epsilon=worker.EPSILON,
        weight_decay=worker.DECAY,
        max_grad_norm=None,
        warmup=0,
        lr_schedule="constant",
    ).build(1_000_000)
    rows = Axis("batch", item.batch)
    asked = LmExample.causal_loss_mask(position).astype(float).broadcast_axis(rows)

    def loss_of(model, ids, key):
        example = LmExample(tokens=ids, loss_weight=asked, attn_mask=AttentionMask.causal())
        loss = model.compute_next_token_loss(example, key=key)
        return loss.scalar() if hasattr(loss, "scalar") else loss

    def train(state, ids):
        key, next_key = jax.random.split(state.training_key)
        ids = haliax.named(ids, (rows, position))
        loss, grads = equinox.filter_value_and_grad(loss_of)(state.model, ids, key)
        after = state.take_step(grads, loss=loss, key=next_key)
        return after[0] if isinstance(after, tuple) else after, loss

    def init(key):
        return TrainerState.init(optimizer, config.build(Axis("vocab", item.vocab), key=key), key=key)

    data = [batch["tokens"] for batch in batches(item)]
    with jax.set_mesh(jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))), haliax.axis_mapping({}):
        state = haliax.named_jit(init)(jax.random.key(0))
        compiled = haliax.named_jit(train, donate_args=(True, False))

        def step(i: int) -> float:
            nonlocal state
            state, loss = compiled(state, data[i % len(data)])
            return float(loss)

        worker.serve(step, "marin-levanter", "marin-haliax", "jax")


if __name__ == "__main__":
    main()
