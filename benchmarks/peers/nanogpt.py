"""nanoGPT's own model.py, of a checkout that $NANOGPT_DIR names, with its groups of parameters.

--options: compile, fused (AdamW in one kernel, which it asks for on GPUs only), bf16 (autocast).
"""

import os
import sys

import torch

from . import worker
from .items import batches


def main() -> None:
    arguments = worker.arguments()
    item, options = arguments.item, arguments.options
    worker.only("causal", item)
    sys.path.insert(0, os.environ["NANOGPT_DIR"])
    from model import GPT, GPTConfig

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    if item.hidden != 4 * item.width:
        sys.exit("its hidden size is four times its width")
    trained = GPT(
        GPTConfig(
            block_size=item.length,
            vocab_size=item.vocab,
            n_layer=item.layers,
            n_head=item.heads,
            n_embd=item.width,
            dropout=arguments.dropout,
            bias=True,
        )
    ).train()
    optimizer = trained.configure_optimizers(worker.DECAY, worker.RATE, worker.BETAS, "cpu")
    if "fused" in options:
        optimizer = torch.optim.AdamW(optimizer.param_groups, lr=worker.RATE, betas=worker.BETAS, fused=True)
    forward = torch.compile(trained) if "compile" in options else trained
    data = [tuple(torch.from_numpy(batch[key]).long() for key in ("tokens", "labels")) for batch in batches(item)]

    def step(i: int) -> float:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled="bf16" in options):
            _, loss = forward(*data[i % len(data)])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    worker.serve(step, "torch")


if __name__ == "__main__":
    main()
