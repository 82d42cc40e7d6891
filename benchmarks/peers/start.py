"""The peer of `benchmarks.start`: Hugging Face's BERT with torch, from its imports to its first steps.

python benchmarks/peers/start.py eager|compile LAYERS WIDTH HEADS HIDDEN VOCABULARY ROWS LENGTH

Prints the time, in seconds since 1970, at which each of two steps was done. Tokens are random: opening data costs it
nothing.
"""

import sys
import time

import torch
import transformers

mode, (layers, width, heads, hidden, vocabulary, rows, length) = sys.argv[1], map(int, sys.argv[2:])
config = transformers.BertConfig(
    vocab_size=vocabulary,
    hidden_size=width,
    num_hidden_layers=layers,
    num_attention_heads=heads,
    intermediate_size=hidden,
    max_position_embeddings=length,
)
model = transformers.BertForMaskedLM(config).train()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
net = torch.compile(model) if mode == "compile" else model
for _ in range(2):
    tokens = torch.randint(5, vocabulary, (rows, length))
    chosen = torch.rand(tokens.shape) < 0.15
    loss = net(input_ids=tokens.where(~chosen, 4), labels=tokens.where(chosen, -100)).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    loss.item()
    print(time.time(), flush=True)
