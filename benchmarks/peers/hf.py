"""Hugging Face transformers: BertForMaskedLM and GPT2LMHeadModel, with torch's AdamW.

--options: compile (torch.compile), fused (AdamW in one kernel, as its Trainer has it), bf16 (autocast).
"""

import torch
import transformers

from . import worker
from .items import Item, batches


def model(item: Item, dropout: float) -> torch.nn.Module:
    shared = dict(vocab_size=item.vocab, attn_implementation="sdpa")
    if item.kind == "mlm":
        config = transformers.BertConfig(
            hidden_size=item.width,
            num_hidden_layers=item.layers,
            num_attention_heads=item.heads,
            intermediate_size=item.hidden,
            max_position_embeddings=max(item.length, 512),
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            **shared,
        )
        return transformers.BertForMaskedLM(config)
    config = transformers.GPT2Config(
        n_embd=item.width,
        n_layer=item.layers,
        n_head=item.heads,
        n_inner=item.hidden,
        n_positions=item.length,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
        **shared,
    )
    return transformers.GPT2LMHeadModel(config)


def main() -> None:
    arguments = worker.arguments()
    item, options = arguments.item, arguments.options
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    trained = model(item, arguments.dropout).train()
    optimizer = torch.optim.AdamW(
        trained.parameters(),
        lr=worker.RATE,
        betas=worker.BETAS,
        eps=worker.EPSILON,
        weight_decay=worker.DECAY,
        fused="fused" in options or None,
    )
    forward = torch.compile(trained) if "compile" in options else trained
    if item.kind == "mlm":
        data = [(batch["shown"], batch["labels"]) for batch in batches(item)]
    else:  # it shifts labels itself
        data = [(batch["tokens"], batch["tokens"]) for batch in batches(item)]
    data = [tuple(torch.from_numpy(ids).long() for ids in pair) for pair in data]

    def step(i: int) -> float:
        ids, labels = data[i % len(data)]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled="bf16" in options):
            loss = forward(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    worker.serve(step, "torch", "transformers")


if __name__ == "__main__":
    main()
