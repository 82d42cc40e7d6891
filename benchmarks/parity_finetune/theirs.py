"""PyTorch's side of the comparison (see run.py): Hugging Face's model and torch's AdamW over the recorded batches.

python theirs.py FOLDER
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
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

KINDS = {
    "sequence": (AutoModelForSequenceClassification, "classifier", "classifier"),
    "token": (AutoModelForTokenClassification, "classifier", "tagger"),
    "question": (AutoModelForQuestionAnswering, "qa_outputs", "tagger"),
}
IGNORED = -100


def loss_of(model, task: str, batch: dict[str, np.ndarray]) -> torch.Tensor:
    """The model's own mean loss; of questions over positions of the context and the first one, which alone can be
    answers (Hugging Face's also counts the question and padding)."""
    tokens = torch.from_numpy(batch["tokens"].astype(np.int64))
    inputs = {
        "input_ids": tokens,
        "attention_mask": torch.arange(tokens.shape[1]) < torch.from_numpy(batch["size"])[:, None],
    }
    if "types" in batch:
        inputs["token_type_ids"] = torch.from_numpy(batch["types"].astype(np.int64))
    if task == "sequence":
        return model(**inputs, labels=torch.from_numpy(batch["label"].astype(np.int64))).loss
    if task == "token":
        labels = torch.from_numpy(np.where(batch["label"] < 0, IGNORED, batch["label"]).astype(np.int64))
        return model(**inputs, labels=labels).loss
    allowed = torch.from_numpy(batch["piece"] > 0)
    allowed[:, 0] = True
    found = model(**inputs)
    losses = [
        F.cross_entropy(
            logits.masked_fill(~allowed, -1e30), torch.from_numpy(np.maximum(batch[name], 0).astype(np.int64))
        )
        for name, logits in (("start", found.start_logits), ("end", found.end_logits))
    ]
    return sum(losses) / 2


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    s = json.loads((folder / "settings.json").read_text())
    kind, name, ours = KINDS[s["task"]]
    head = dict(np.load(folder / "head.npz"))
    kernel, bias = head[f"{ours}/kernel"], head[f"{ours}/bias"]
    sizes = {} if s["task"] == "question" else {"num_labels": kernel.shape[1]}
    zero = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "classifier_dropout": 0.0}
    model = kind.from_pretrained(s["model"], dtype=torch.float32, **sizes, **zero).train()
    with torch.no_grad():
        getattr(model, name).weight.copy_(torch.from_numpy(kernel.T.copy()))
        getattr(model, name).bias.copy_(torch.from_numpy(bias))
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": s["weight_decay"]},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(s["b1"], s["b2"]), eps=s["eps"])
    losses, seconds = [], []
    for step, rate in enumerate(s["rates"]):
        batch = dict(np.load(folder / f"batches/{step}.npz"))
        begin = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = loss_of(model, s["task"], batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, s["clip"])
        optimizer.step()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - begin)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    result = {"losses": losses, "seconds_per_step": statistics.median(seconds), "versions": versions}
    (folder / "theirs.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
