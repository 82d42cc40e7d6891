"""No model: a step is as many products of matrices as have its floating-point operations, by torch's oneDNN.

Their shape is that of the item's feed-forward part, written to memory that is there already: the floor of a step.
"""

import torch

from . import worker


def main() -> None:
    arguments = worker.arguments()
    item = arguments.item
    torch.set_num_threads(arguments.threads)
    x, kernel = torch.randn(item.tokens, item.width), torch.randn(item.width, item.hidden)
    y = torch.empty(item.tokens, item.hidden)
    count = round(item.flops() / (2 * item.tokens * item.width * item.hidden))

    def step(i: int) -> float:
        for _ in range(count):
            torch.mm(x, kernel, out=y)
        return y[0, 0].item()

    worker.serve(step, "torch")


if __name__ == "__main__":
    main()
