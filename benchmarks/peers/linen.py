"""Plain Flax, as anyone would write a BERT or a GPT: logits at every position, nn.Dropout, optax.adamw."""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax.training.train_state import TrainState

from . import worker
from .items import Item, batches

INIT = nn.initializers.normal(0.02)


class Block(nn.Module):
    item: Item
    dropout: float

    @nn.compact
    def __call__(self, x, mask):
        item, off, post = self.item, self.dropout == 0, self.item.kind == "mlm"
        attention = nn.MultiHeadDotProductAttention(
            num_heads=item.heads,
            dropout_rate=self.dropout,
            deterministic=off,
            kernel_init=INIT,
            broadcast_dropout=False,
        )
        h = x if post else nn.LayerNorm()(x)
        x = x + nn.Dropout(self.dropout, deterministic=off)(attention(h, h, mask=mask))
        x = nn.LayerNorm()(x) if post else x
        h = x if post else nn.LayerNorm()(x)
        h = nn.gelu(nn.Dense(item.hidden, kernel_init=INIT)(h), approximate=not post)
        x = x + nn.Dropout(self.dropout, deterministic=off)(nn.Dense(item.width, kernel_init=INIT)(h))
        return nn.LayerNorm()(x) if post else x


class LanguageModel(nn.Module):
    item: Item
    dropout: float

    @nn.compact
    def __call__(self, ids):
        item, length = self.item, ids.shape[1]
        table = nn.Embed(item.vocab, item.width, embedding_init=INIT)
        x = table(ids) + nn.Embed(max(length, 512), item.width, embedding_init=INIT)(jnp.arange(length))[None]
        mlm = item.kind == "mlm"
        if mlm:
            x = nn.LayerNorm()(x + nn.Embed(2, item.width, embedding_init=INIT)(jnp.zeros_like(ids)))
        x = nn.Dropout(self.dropout, deterministic=self.dropout == 0)(x)
        mask = None if mlm else nn.make_causal_mask(ids)
        for _ in range(item.layers):
            x = Block(item, self.dropout)(x, mask)
        if not mlm:
            return table.attend(nn.LayerNorm()(x))
        x = nn.LayerNorm()(nn.gelu(nn.Dense(item.width, kernel_init=INIT)(x), approximate=False))
        return table.attend(x) + self.param("bias", nn.initializers.zeros, (item.vocab,))


def main() -> None:
    arguments = worker.arguments()
    item = arguments.item
    text = "shown" if item.kind == "mlm" else "tokens"
    data = [(batch[text], batch["labels"]) for batch in batches(item)]
    model = LanguageModel(item, arguments.dropout)
    keys = dict(params=jax.random.key(0), dropout=jax.random.key(1))
    params = jax.jit(model.init)(keys, data[0][0])["params"]
    b1, b2 = worker.BETAS
    adam = optax.adamw(worker.RATE, b1=b1, b2=b2, eps=worker.EPSILON, weight_decay=worker.DECAY)

    def train(state, ids, labels, key):
        key = jax.random.fold_in(key, state.step)

        def loss_of(params):
            logits = state.apply_fn({"params": params}, ids, rngs={"dropout": key})
            weights = (labels >= 0).astype(jnp.float32)
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
            return (loss * weights).sum() / weights.sum()

        loss, grads = jax.value_and_grad(loss_of)(state.params)
        return state.apply_gradients(grads=grads), loss

    state = TrainState.create(apply_fn=model.apply, params=params, tx=adam)
    compiled, key = jax.jit(train, donate_argnums=0), jax.random.key(2)

    def step(i: int) -> float:
        nonlocal state
        state, loss = compiled(state, *data[i % len(data)], key)
        return float(loss)

    worker.serve(step, "jax", "flax", "optax")


if __name__ == "__main__":
    main()
