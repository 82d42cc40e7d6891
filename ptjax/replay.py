"""Any step of a run, alone: its batch, what was asked of it, and its loss."""

import dataclasses
from collections.abc import Iterable

import jax
import numpy as np

from ptjax.data.pipeline import batch_at
from ptjax.data.tokenizers import Tokenizer, VocabSpec
from ptjax.objectives.base import Objective, StepContext, means
from ptjax.train import Run
from ptjax.types import Batch, PyTree, TrainState


@dataclasses.dataclass(frozen=True)
class Question:
    """What one objective asked. name: empty, or that of a part of a mixture. batch: its rows, corrupted. row_loss:
    f32[B], each row's own loss, without dropout and without memory of the rows before."""

    name: str
    batch: dict[str, np.ndarray]
    row_loss: np.ndarray


@dataclasses.dataclass(frozen=True)
class Replay:
    """metrics: of the step, as training logs them."""

    questions: tuple[Question, ...]
    metrics: dict[str, float]

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it, those of a mixture's part under `part/name`."""
        named = {}
        for question in self.questions:
            prefix = f"{question.name}/" if question.name else ""
            named |= {prefix + name: value for name, value in question.batch.items()}
            named[f"{prefix}row_loss"] = question.row_loss
        return named


def replay(run: Run, state: TrainState, step: int) -> Replay:
    """Step `step`, counted from 1 as in metrics.jsonl, under the parameters of `state`.

    With the state of the checkpoint at step - 1 the loss is the one that training saw. Dropout is the same where
    training ran on one device of the same kind: its cheaper random bits depend on both.
    """
    state = state.replace(step=np.int32(step - 1))
    learner = run.learner_at(step - 1)
    batch = run.train_step(step - 1).place(batch_at(run.pipeline, step - 1))

    def asked(state, batch):
        questions = learner.objective.questions(learner.net, learner.corrupted(state, batch))
        return {
            name: (rows, row_losses(objective, net, rows, state.params, learner.vocab))
            for name, (objective, net, rows) in questions.items()
        }

    questions = jax.device_get(jax.jit(asked)(state, batch))
    metrics = jax.jit(lambda state, batch: learner.train_step(state, batch)[1])(state, batch)
    values = {name: float(total / weight) for name, (total, weight) in jax.device_get(metrics).items() if weight}
    return Replay(tuple(Question(name, *question) for name, question in questions.items()), values)


def row_losses(objective: Objective, net, batch: Batch, params: PyTree, vocab: VocabSpec) -> jax.Array:
    """f32[B]: what a batch of each corrupted row alone would cost."""

    def one(row):
        row = jax.tree.map(lambda x: x[None], row)
        weights = objective.weights(row, vocab)
        totals = objective.losses(net, {"params": params}, row, StepContext(vocab)).totals
        return objective.minimised(means(totals, weights))

    return jax.lax.map(one, batch)


class Reader:
    """Rows of corrupted batches as text, whatever the objective, by the names that objectives give their arrays.

    What was asked stands in brackets, [original] or [original>shown] where it was shown as something else; #k says
    that it was asked as the k-th. What all of its document sees from the start stands between « and ». A source and its
    target come one below the other. What belongs to the row as a whole comes first.
    """

    def __init__(self, tokenizer: Tokenizer, vocab: VocabSpec):
        """vocab: the objective's, which may have ids beyond the tokenizer's."""
        self.tokenizer, own = tokenizer, tokenizer.vocab
        kinds = ("unk", "bos", "eos", "cls", "sep", "pad", "mask")
        self.names = {getattr(own, f"{kind}_id"): f"<{kind}>" for kind in kinds} | {own.boundary_id: "<end>\n"}
        if own.boundary_side == "begin":
            self.names[own.boundary_id] = "\n<begin>"
        self.names |= {token: f"<extra_{k}>" for k, token in enumerate(vocab.extra_ids)}

    def row(self, batch: dict[str, np.ndarray], at: int) -> str:
        row = {name: np.asarray(value[at]) for name, value in batch.items() if isinstance(value, np.ndarray)}
        facts = [f"{name} {value.item():.4g}" for name, value in row.items() if not value.ndim and name != "index"]
        lines = [", ".join(facts)] if facts else []
        if "target" in row:
            return "\n".join([*lines, f"source: {self.text(row['tokens'])}", f"target: {self.text(row['target'])}"])
        return "\n".join([*lines, self._marked(row)])

    def _marked(self, row: dict[str, np.ndarray]) -> str:
        shown, asked = row["tokens"], {}
        original = row.get("original", shown)
        if "positions" in row:
            weights = row.get("weights", np.ones(row["positions"].shape))
            asked = dict.fromkeys(row["positions"][weights > 0].tolist(), "")
        if "hidden" in row:
            asked = dict.fromkeys(np.flatnonzero(row["hidden"]).tolist(), "")
        if "order" in row:
            asked = {at: f" #{row['order'][at]}" for at in asked}
        both_ways = row.get("prefix", np.zeros(len(shown), bool))
        edges = np.diff(both_ways.astype(int), prepend=0, append=0)
        text, plain = [], []
        for at in range(len(shown) + 1):
            ends = edges[at] or at == len(shown)
            if plain and (ends or at in asked):
                text.append(self.text(plain))
                plain = []
            text += {1: ["«"], -1: ["»"], 0: []}[int(edges[at])]
            if at in asked:
                change = "" if shown[at] == original[at] else f">{self.text([shown[at]])}"
                text.append(f"[{self.text([original[at]])}{change}{asked[at]}]")
            elif at < len(shown):
                plain.append(shown[at])
        return "".join(text)

    def text(self, ids: Iterable[int]) -> str:
        """Ids with special ones by name. Runs are decoded together, so that characters spelled in bytes come out
        whole; padding at the end is left out."""
        pad, ids = self.tokenizer.vocab.pad_id, [int(token) for token in ids]
        while len(ids) > 1 and ids[-1] == pad == ids[-2]:
            ids.pop()
        text, run = [], []
        for token in ids:
            if token in self.names:
                text += [self.tokenizer.decode_inside(run), self.names[token]]
                run = []
            else:
                run.append(token)
        return "".join([*text, self.tokenizer.decode_inside(run)])
