"""A text, or a pair of texts, as one answer: a class or a number."""

import math
from collections.abc import Sequence

import chz
import jax
import jax.numpy as jnp
import numpy as np

from ptjax.config import UserError
from ptjax.data.examples import Example
from ptjax.data.tokenizers import Tokenizer
from ptjax.metrics.classification import Accuracy, MacroF1, MCC
from ptjax.metrics.correlation import Pearson, Spearman
from ptjax.models.task_nets import Pool, sequence_net
from ptjax.objectives.base import StepContext
from ptjax.tasks.base import Task, labels_of, real
from ptjax.tasks.encoded import Encoded, readable
from ptjax.types import Batch, Losses


@chz.chz
class PooledTask(Task):
    """What tasks share whose head reads a row as one vector."""

    pool: Pool | None = chz.field(
        default=None,
        doc="the vector of a row: state of its first token, be it [CLS] or a word, mean, state of its last, learned "
        "attention; None: the last where attention is causal or rows end with [CLS] as XLNet's, the first where the "
        "model has a pooler that has learned, else the mean",
    )
    pooler: bool | None = chz.field(
        default=None, doc="a dense layer and tanh on that vector, as BERT has; None: where the model has one"
    )

    def fitted(self, start):
        task, trained = super().fitted(start), "pooler" in start.source.shapes
        pooler = trained if task.pooler is None else task.pooler
        last = task.attention == "causal" or start.tokenizer.closing_type is not None
        pool = "last" if last else "cls" if trained else "mean"
        return chz.replace(task, pooler=pooler, pool=task.pool or pool)

    @property
    def outputs(self) -> int:
        """Numbers that the head gives."""
        raise NotImplementedError

    def plain_net(self, body, vocab):
        settings = dict(pool=self.pool, pooler=self.pooler, dropout=self.dropout)
        return sequence_net(body, vocab.size, self.outputs, **settings)

    def weights(self, batch, vocab):
        return {"task": real(batch).sum()}


@chz.chz
class SequenceTask(PooledTask):
    """What classification and regression share. Texts that are too long lose tokens at the end, of a pair the longer
    one first."""

    holds = ("text", "label")

    def encode(self, examples: Sequence[Example], tokenizer: Tokenizer) -> Encoded:
        rows = encode_texts(examples, tokenizer, self.length)
        return packed(rows, tokenizer.vocab.pad_id, {"label": self.targets(examples)} if _labelled(examples) else {})

    def targets(self, examples: Sequence[Example]) -> np.ndarray:
        """[N], what the loss compares with."""
        raise NotImplementedError

    def reference(self, example):
        return example["label"]


@chz.chz
class SequenceClassification(SequenceTask):
    """Cross entropy of a linear layer over classes (Devlin et al., 2019, section 4.1). Examples have 'text' and
    'label', and 'pair' where two texts are judged together."""

    metric: str = chz.field(default="accuracy", doc="the headline: accuracy, macro_f1 or mcc")
    labels: tuple[str, ...] | None = chz.field(default=None, doc="classes; None: those of the training examples")

    def metrics(self):
        labels = tuple(self.labels or ())
        return Accuracy(), MacroF1(labels), MCC(labels)

    def resolved(self, train):
        names = self.labels or labels_of([str(example["label"]) for example in train], self.name)
        return chz.replace(self, labels=tuple(names))

    def mistake(self, example):
        label = example.get("label", "")
        wrong = None if isinstance(label, str | int | float) else f"has the label {label!r:.80}: a class is a text"
        return super().mistake(example) or wrong

    @property
    def outputs(self):
        return len(self.labels)

    def targets(self, examples):
        ids = {label: i for i, label in enumerate(self.labels)}
        # A label that training has not seen cannot be predicted: it counts as wrong and is not learned.
        return np.array([ids.get(str(example["label"]), -1) for example in examples], np.int32)

    def reference(self, example):
        return str(example["label"])

    def weights(self, batch, vocab):
        return {"task": jnp.sum(real(batch) * (batch["label"] >= 0))}

    def losses(self, net, variables, batch: Batch, context: StepContext) -> Losses:
        logits_BC = context.apply(net, variables, self.inputs(batch, context.vocab), method="answer")
        weight_B, label_B = real(batch) * (batch["label"] >= 0), jnp.maximum(batch["label"], 0)
        nll_B = -jnp.take_along_axis(jax.nn.log_softmax(logits_BC), label_B[:, None], axis=1)[:, 0]
        correct = jnp.sum((logits_BC.argmax(axis=1) == label_B) * weight_B)
        return Losses({"task": jnp.sum(nll_B * weight_B)}, {"accuracy": (correct, weight_B.sum())})

    def predict(self, net, variables, batch, context):
        logits_BC = context.apply(net, variables, self.inputs(batch, context.vocab), method="answer")
        return {"log_probability": jax.nn.log_softmax(logits_BC)}

    def answers(self, examples, encoded, outputs, tokenizer):
        found = []
        for example, scores in zip(examples, np.exp(outputs["log_probability"])):
            chances = {label: round(float(p), 6) for label, p in zip(self.labels, scores)}
            found.append({"id": example["id"], "prediction": self.labels[int(scores.argmax())], "chances": chances})
        return found

    def check_prediction(self, prediction):
        if not isinstance(prediction, str):
            raise ValueError(f"a prediction is a label, a text, not {prediction!r}")


@chz.chz
class SequenceRegression(SequenceTask):
    """Squared error of one number. It is learned in units of the training labels' deviation from their mean."""

    metric: str = chz.field(default="pearson", doc="the headline: pearson or spearman")
    center: float | None = chz.field(default=None, doc="mean of the labels; None: that of the training examples")
    spread: float | None = chz.field(default=None, doc="their standard deviation; None: that of the training examples")

    def metrics(self):
        return Pearson(), Spearman()

    def resolved(self, train):
        labels = [float(example["label"]) for example in train]
        center, spread = float(np.mean(labels)), float(np.std(labels))
        if spread == 0:
            raise UserError(f"task {self.name}: all {len(labels)} training labels are {labels[0]}: nothing to learn")
        return chz.replace(self, center=center if self.center is None else self.center, spread=self.spread or spread)

    def mistake(self, example):
        try:
            number = float(example.get("label", 0))
        except (TypeError, ValueError):
            number = math.nan
        if math.isfinite(number):
            return super().mistake(example)
        return (
            f"has the label {example['label']!r:.80}, and SequenceRegression learns finite numbers, read with "
            "examples.number=True; SequenceClassification learns names of classes"
        )

    @property
    def outputs(self):
        return 1

    def targets(self, examples):
        values = np.array([float(example["label"]) for example in examples])
        return ((values - self.center) / self.spread).astype(np.float32)

    def reference(self, example):
        return float(example["label"])

    def losses(self, net, variables, batch: Batch, context: StepContext) -> Losses:
        value_B = context.apply(net, variables, self.inputs(batch, context.vocab), method="answer")[:, 0]
        total = jnp.sum((value_B - batch["label"]) ** 2 * real(batch))
        return Losses({"task": total}, {"squared_error": (total, real(batch).sum())})

    def predict(self, net, variables, batch, context):
        return {"value": context.apply(net, variables, self.inputs(batch, context.vocab), method="answer")[:, 0]}

    def answers(self, examples, encoded, outputs, tokenizer):
        values = self.center + self.spread * np.asarray(outputs["value"], np.float64)
        return [{"id": x["id"], "prediction": float(f"{value:.9g}")} for x, value in zip(examples, values)]

    def check_prediction(self, prediction):
        if isinstance(prediction, bool) or not isinstance(prediction, int | float) or not np.isfinite(prediction):
            raise ValueError(f"a prediction is a finite number, not {prediction!r}")


def encode_texts(
    examples: Sequence[Example], tokenizer: Tokenizer, length: int
) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """(ids int32[n], types int32[n] or None: all 0) of each example's text, or text and pair, framed, 0 < n <= length.

    Raises UserError where the frame leaves no room.
    """
    texts = tokenizer.encode_batch([example["text"] for example in examples])
    pairs = iter(tokenizer.encode_batch([x["pair"] for x in examples if x.get("pair") is not None]))
    alone, together = sum(map(len, tokenizer.framing)), tokenizer.pair_overhead
    rows = []
    for example, a in zip(examples, texts):
        if example.get("pair") is None:
            ids = tokenizer.frame(readable(a, tokenizer)[: max(length - alone, 0)])
            types = tokenizer.frame_types(len(ids))
        else:
            ids, types = tokenizer.frame_pair(*shortened(a, next(pairs), length - together))
        if len(ids) > length:
            raise UserError(f"task.length={length} leaves no room for a text beside the tokens that frame it")
        rows.append((ids, types))
    return rows


def shortened(a: np.ndarray, b: np.ndarray, room: int) -> tuple[np.ndarray, np.ndarray]:
    """Two texts that have `room` tokens together: the longer one gives first, at its end (BERT's run_classifier)."""
    first = min(len(a), max(room - len(b), room - room // 2))
    return a[: max(first, 0)], b[: max(room - max(first, 0), 0)]


def packed(rows, pad_id: int, labels: dict[str, np.ndarray]) -> Encoded:
    """Rows of (ids, types), one an example."""
    size = np.array([len(ids) for ids, _ in rows], np.int32)
    tokens = np.full((len(rows), size.max()), pad_id, np.int32)
    kinds = np.zeros(tokens.shape, np.int8) if any(types is not None for _, types in rows) else None
    for row, (ids, types) in enumerate(rows):
        tokens[row, : len(ids)] = ids
        if types is not None:
            kinds[row, : len(ids)] = types
    arrays = {"tokens": tokens} if kinds is None else {"tokens": tokens, "types": kinds}
    return Encoded(np.arange(len(rows), dtype=np.int32), size, arrays, labels)


def _labelled(examples: Sequence[Example]) -> bool:
    return all("label" in example for example in examples)
