"""Hugging Face transformers, or nanoGPT's own model.py of a checkout that $NANOGPT_DIR names, on a GPU in bfloat16
(autocast, as their trainers have it) with torch's fused AdamW.

--options: nanogpt (else transformers), compile (torch.compile), flash (the flash-attn package; else SDPA, which picks
among torch's own fused kernels).
"""

import os
import sys

import torch

from benchmarks.gpu.work import Work, arguments
from benchmarks.peers import worker
from benchmarks.peers.items import batches


def transformers_model(work: Work, dropout: float, attention: str) -> torch.nn.Module:
    import transformers

    shared = dict(vocab_size=work.vocab, attn_implementation=attention, use_cache=False)
    sizes = dict(hidden_size=work.width, num_hidden_layers=work.layers, num_attention_heads=work.heads)
    sizes |= dict(intermediate_size=work.hidden, max_position_embeddings=work.length)
    if work.family == "bert":
        drops = dict(hidden_dropout_prob=dropout, attention_probs_dropout_prob=0.0)
        return transformers.BertForMaskedLM(transformers.BertConfig(**shared, **sizes, **drops))
    if work.family == "modernbert":
        drops = dict(attention_dropout=0.0, embedding_dropout=0.0, mlp_dropout=0.0)
        ids = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2)
        shared.pop("use_cache")
        return transformers.ModernBertForMaskedLM(transformers.ModernBertConfig(**shared, **sizes, **drops, **ids))
    sizes = dict(n_embd=work.width, n_layer=work.layers, n_head=work.heads, n_inner=work.hidden)
    sizes |= dict(n_positions=work.length, bos_token_id=0, eos_token_id=0)
    drops = dict(resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=0.0)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**shared, **sizes, **drops))


def nanogpt_model(work: Work, dropout: float) -> torch.nn.Module:
    worker.only("causal", work)
    sys.path.insert(0, os.environ["NANOGPT_DIR"])
    from model import GPT, GPTConfig

    sizes = dict(n_layer=work.layers, n_head=work.heads, n_embd=work.width, block_size=work.length)
    return GPT(GPTConfig(**sizes, vocab_size=work.vocab, dropout=dropout, bias=True))


def main() -> None:
    asked = arguments(__doc__)
    work, options = asked.work, asked.options
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    nanogpt = "nanogpt" in options
    if nanogpt:
        trained = nanogpt_model(work, asked.dropout)
    else:
        trained = transformers_model(work, asked.dropout, "flash_attention_2" if "flash" in options else "sdpa")
    trained = trained.to(device).train()
    optimizer = torch.optim.AdamW(
        trained.parameters(),
        lr=worker.RATE,
        betas=worker.BETAS,
        eps=worker.EPSILON,
        weight_decay=worker.DECAY,
        fused=True,
    )
    forward = torch.compile(trained) if "compile" in options else trained
    names = {"mlm": ("shown", "labels"), "causal": ("tokens", "labels" if nanogpt else "tokens")}[work.kind]
    data = [[torch.from_numpy(batch[name]).long() for name in names] for batch in batches(work)]
    if device == "cuda":
        data = [[ids.pin_memory() for ids in pair] for pair in data]

    def step(reading: int) -> float:
        for number in range(reading * asked.steps, (reading + 1) * asked.steps):
            ids, labels = (x.to(device, non_blocking=True) for x in data[number % len(data)])
            with torch.autocast(device, dtype=torch.bfloat16):
                loss = forward(ids, labels)[1] if nanogpt else forward(input_ids=ids, labels=labels).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return loss.item()

    worker.serve(step, "torch", "transformers", "triton", "flash-attn")


if __name__ == "__main__":
    main()
