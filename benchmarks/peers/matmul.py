"""No model: a step is as many products of matrices as have its floating-point operations. The floor of a step.

Their shape is that of the item's feed-forward part, rows by columns as they lie, which is the fastest there is.
--options: torch or jax, whose product.
"""

from . import worker
from .items import Item


def by_torch(item: Item, threads: int):
    import torch

    torch.set_num_threads(threads)
    x, kernel = torch.randn(item.tokens, item.width), torch.randn(item.width, item.hidden)
    y = torch.empty(item.tokens, item.hidden)
    return lambda: torch.mm(x, kernel, out=y)


def by_jax(item: Item, threads: int):
    from experiments.cli import set_up_jax

    set_up_jax()  # with its memory settings: the result of a product lies where the one before lay
    import jax
    import jax.numpy as jnp

    x, kernel = jnp.ones((item.tokens, item.width)), jnp.ones((item.width, item.hidden))
    product = jax.jit(jnp.matmul)
    return lambda: product(x, kernel).block_until_ready()


def main() -> None:
    arguments = worker.arguments()
    item, (library,) = arguments.item, arguments.options
    product = {"torch": by_torch, "jax": by_jax}[library](item, arguments.threads)
    count = max(1, round(item.flops() / (2 * item.tokens * item.width * item.hidden)))

    def step(i: int) -> float:
        for _ in range(count):
            product()
        return 0.0

    worker.serve(step, library)


if __name__ == "__main__":
    main()
