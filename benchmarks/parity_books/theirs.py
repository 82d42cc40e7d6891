"""PyTorch's side of the comparison (see run.py): Hugging Face's model and torch's AdamW over the recorded batches.

    python theirs.py FOLDER THREADS

Shares no code with ptjax: which tokens are one document, positions and masks are worked out here anew.
"""

import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from torch.nn import functional as F
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

IGNORED = -100


def build(s: dict) -> torch.nn.Module:
    if s["model"] == "BERT":
        return BertForMaskedLM(
            BertConfig(
                vocab_size=s["vocab_size"],
                hidden_size=s["width"],
                num_hidden_layers=s["layers"],
                num_attention_heads=s["heads"],
                intermediate_size=s["hidden"],
                max_position_embeddings=s["max_length"],
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            )
        )
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=s["vocab_size"],
            n_embd=s["width"],
            n_layer=s["layers"],
            n_head=s["heads"],
            n_inner=s["hidden"],
            n_positions=s["max_length"],
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    )


def load(model: torch.nn.Module, weights: dict[str, np.ndarray], s: dict) -> None:
    """Puts ptjax's initial weights in their places; every weight of the model has to get one."""
    is_bert, width, new = s["model"] == "BERT", s["width"], {}

    def put(name: str, module: str, layer: int | None = None) -> None:
        """A module of ptjax, [D, H, K] and [H, K, D] kernels as matrices."""
        for leaf, value in weights.items():
            if leaf.rpartition(".")[0] == module:
                value = value if layer is None else value[layer]
                if leaf.endswith("kernel"):
                    out = width if module.endswith("attention.output") else int(value.size / value.shape[0])
                    value = value.reshape(-1, out)
                    value = value.T if is_bert else value  # Linear is [out, in], Conv1D [in, out]
                else:
                    value = value.reshape(-1)
                new[name + (".bias" if leaf.endswith("bias") else ".weight")] = value

    rows = s["vocab_size"]
    block = "body.layers.block."
    if is_bert:
        embed = "bert.embeddings."
        new[embed + "word_embeddings.weight"] = weights["body.embed.tokens"][:rows]
        new[embed + "position_embeddings.weight"] = weights["body.embed.positions"]
        new[embed + "token_type_embeddings.weight"] = weights["body.embed.types"]
        put(embed + "LayerNorm", "body.embed_norm")
        for i in range(s["layers"]):
            layer = f"bert.encoder.layer.{i}."
            for part in ("query", "key", "value"):
                put(f"{layer}attention.self.{part}", f"{block}attention.{part}", i)
            put(layer + "attention.output.dense", block + "attention.output", i)
            put(layer + "attention.output.LayerNorm", block + "attention_norm", i)
            put(layer + "intermediate.dense", block + "mlp.up", i)
            put(layer + "output.dense", block + "mlp.down", i)
            put(layer + "output.LayerNorm", block + "mlp_norm", i)
        put("cls.predictions.transform.dense", "head.dense")
        put("cls.predictions.transform.LayerNorm", "head.norm")
        new["cls.predictions.bias"] = weights["head.bias"][:rows]
    else:
        new["transformer.wte.weight"] = weights["body.embed.tokens"][:rows]
        new["transformer.wpe.weight"] = weights["body.embed.positions"]
        for i in range(s["layers"]):
            layer = f"transformer.h.{i}."
            for part in ("query", "key", "value"):
                put(part, f"{block}attention.{part}", i)
            for leaf in ("weight", "bias"):
                parts = [new.pop(f"{part}.{leaf}") for part in ("query", "key", "value")]
                new[f"{layer}attn.c_attn.{leaf}"] = np.concatenate(parts, axis=-1)
            put(layer + "attn.c_proj", block + "attention.output", i)
            put(layer + "ln_1", block + "attention_norm", i)
            put(layer + "ln_2", block + "mlp_norm", i)
            put(layer + "mlp.c_fc", block + "mlp.up", i)
            put(layer + "mlp.c_proj", block + "mlp.down", i)
        put("transformer.ln_f", "body.norm")
    places = dict(model.named_parameters())
    assert places.keys() == new.keys(), places.keys() ^ new.keys()
    with torch.no_grad():
        for name, place in places.items():
            assert place.shape == new[name].shape, (name, place.shape, new[name].shape)
            place.copy_(torch.from_numpy(np.ascontiguousarray(new[name])))


class Batches:
    """A recorded split: each batch as arguments of Hugging Face's model, with labels."""

    def __init__(self, folder: Path, s: dict):
        self.settings = s
        self.arrays = {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}

    def __len__(self) -> int:
        return len(self.arrays["tokens"])

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        batch = {name: array[step].astype(np.int64) for name, array in self.arrays.items()}
        tokens, real = batch["tokens"], batch.get("original", batch["tokens"])
        document, position = np.zeros_like(tokens), np.zeros_like(tokens)
        for i in range(1, tokens.shape[1]):  # a document ends with its boundary token
            ended = real[:, i - 1] == self.settings["boundary_id"]
            document[:, i] = document[:, i - 1] + ended
            position[:, i] = np.where(ended, 0, position[:, i - 1] + 1)
        valid = tokens != self.settings["pad_id"]
        allowed = (document[:, :, None] == document[:, None, :]) & valid[:, None, :]
        if "original" in batch:
            labels = np.full_like(tokens, IGNORED)
            answers = np.take_along_axis(real, batch["positions"], 1)
            np.put_along_axis(labels, batch["positions"], np.where(batch["weights"] > 0, answers, IGNORED), 1)
        else:  # Hugging Face shifts the labels itself; nothing predicts the first token of a document
            allowed &= np.tri(tokens.shape[1], dtype=bool)
            labels = np.where(valid & (position > 0), tokens, IGNORED)
        mask = np.where(allowed, np.float32(0), np.finfo(np.float32).min)[:, None]
        arrays = {"input_ids": tokens, "position_ids": position, "attention_mask": mask, "labels": labels}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def loss_sum(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
    """The summed loss and the number of predicted tokens. Same numbers as the model's own mean loss (checked at the
    first step), but BERT's head sees predicted positions only, which is what makes 20 minutes worth while."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    labels = batch["labels"]
    if isinstance(model, BertForMaskedLM):
        asked = labels != IGNORED
        logits, labels = model.cls(model.bert(**inputs).last_hidden_state[asked]), labels[asked]
    else:
        logits, labels = model(**inputs).logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    total = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
    return total, int((labels != IGNORED).sum())


@torch.no_grad()
def evaluate(model: torch.nn.Module, batches: Batches) -> float:
    sums = [loss_sum(model, batches[i]) for i in range(len(batches))]
    return sum(total.item() for total, _ in sums) / sum(count for _, count in sums)


def main(folder: Path, threads: int) -> None:
    torch.set_num_threads(threads)
    s = json.loads((folder / "settings.json").read_text())
    model = build(s).train()
    load(model, dict(np.load(folder / "weights.npz")), s)
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": s["weight_decay"]},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(s["b1"], s["b2"]), eps=s["eps"])
    training, validation = Batches(folder / "train", s), Batches(folder / "validation", s)
    losses, seconds = [], []
    with torch.no_grad():
        total, count = loss_sum(model, training[0])
        own = model(**training[0]).loss.item()
        own_loss_difference = abs(own - total.item() / count) / own
        assert own_loss_difference < 1e-5, own_loss_difference
    for step, rate in enumerate(s["rates"], start=1):
        begin = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = rate
        total, count = loss_sum(model, training[step - 1])
        loss = total / count
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, s["clip"])
        optimizer.step()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - begin)
        if step % 20 == 0 or step == len(s["rates"]):
            print(f"step {step}/{len(s['rates'])}  loss {losses[-1]:.4f}", flush=True)
    result = {
        "losses": losses,
        "validation": evaluate(model, validation),
        "seconds_per_step": statistics.median(seconds),
        "own_loss_difference": own_loss_difference,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    (folder / "theirs.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
