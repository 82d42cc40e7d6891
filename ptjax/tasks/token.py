"""A label for each word of a sentence: named entities, chunks, parts of speech."""

import collections
from collections.abc import Sequence

import chz
import jax
import jax.numpy as jnp
import numpy as np

from ptjax.config import UserError
from ptjax.data.examples import Example
from ptjax.data.tokenizers import Tokenizer
from ptjax.metrics.tagging import SpanF1, SpanPrecision, SpanRecall, TokenAccuracy
from ptjax.models.task_nets import token_net
from ptjax.objectives.base import StepContext
from ptjax.tasks.base import Task, labels_of, real
from ptjax.tasks.encoded import Encoded, readable
from ptjax.tasks.windows import most_context, stacked, windows
from ptjax.types import Batch, Losses


@chz.chz
class TokenClassification(Task):
    """Cross entropy of a linear layer on the first piece of each word (Devlin et al., 2019, section 5.3). Examples have
    'words' and 'labels'; a sentence is its words with a space between them."""

    holds = ("words", "labels")

    metric: str = chz.field(default="span_f1", doc="the headline: span_f1 for BIO tags, accuracy for others")
    labels: tuple[str, ...] | None = chz.field(default=None, doc="tags; None: those of the training examples")
    usual: str | None = chz.field(
        default=None, doc="tag of a word that the tokenizer makes nothing of; None: the one training has most often"
    )
    stride: int | None = chz.field(
        default=None, doc="tokens that two windows of a longer sentence have in common; None: a quarter of length"
    )

    @chz.validate
    def _strides(self):
        if self.stride is not None and not 0 <= self.stride < self.length:
            raise ValueError(f"task.stride={self.stride}: at least 0, and less than task.length={self.length}")

    @property
    def overlap(self) -> int:
        """Tokens that two windows have in common."""
        return self.length // 4 if self.stride is None else self.stride

    def metrics(self):
        spans = () if self.metric == "accuracy" else (SpanF1(), SpanPrecision(), SpanRecall())
        return (*spans, TokenAccuracy())

    def mistake(self, example):
        words, labels = example["words"], example.get("labels", [])
        for name, values, kinds in (("words", words, str), ("labels", labels, str | int)):
            if not isinstance(values, list | tuple) or not all(isinstance(value, kinds) for value in values):
                return f"has the {name} {values!r:.80}: that is a list of texts"
        if "labels" in example and len(labels) != len(words):
            return f"has {len(labels)} labels for its {len(words)} words"
        return super().mistake(example)

    def resolved(self, train):
        counts = collections.Counter(label for example in train for label in self.reference(example))
        labels = self.labels or labels_of(list(counts), self.name)
        return chz.replace(self, labels=tuple(labels), usual=self.usual or max(labels, key=counts.__getitem__))

    def encode(self, examples: Sequence[Example], tokenizer: Tokenizer) -> Encoded:
        """Beside 'tokens': 'word', the place of the word in its sentence at the piece that answers for it, else -1; and
        where no labels are hidden 'label', its number in `labels`, else -1."""
        before, behind = tokenizer.framing
        room = self.length - len(before) - len(behind)
        if room <= self.overlap:
            raise UserError(
                f"task.length={self.length} leaves {room} tokens for words, which is not more than "
                f"task.stride={self.overlap}: raise the one or lower the other"
            )
        owner, rows, words = [], [], []
        for place, example in enumerate(examples):
            ids, spans = tokenizer.encode_offsets(" ".join(example["words"]))
            word = first_pieces(example["words"], spans)
            ids = readable(ids, tokenizer)
            word = np.pad(word, (0, len(ids) - len(word)), constant_values=-1)
            parts = windows(len(ids), room, self.overlap)
            chosen = most_context(parts)
            for part, (start, stop) in enumerate(parts):
                here = np.where(chosen[start:stop] == part, word[start:stop], -1)
                owner.append(place)
                rows.append(tokenizer.frame(ids[start:stop]))
                words.append(np.pad(here, (len(before), len(behind)), constant_values=-1))
        owner, word = np.array(owner, np.int32), stacked(words, -1)
        tokens = {"tokens": stacked(rows, tokenizer.vocab.pad_id), "word": word}
        if tokenizer.closing_type is not None:
            tokens["types"] = stacked([tokenizer.frame_types(len(row)) for row in rows], 0, np.int8)
        if all("labels" in example for example in examples):
            number = {label: i for i, label in enumerate(self.labels)}
            # A label that training has not seen cannot be predicted: it counts as wrong and is not learned.
            known = [[number.get(label, -1) for label in self.reference(example)] + [-1] for example in examples]
            tokens["label"] = np.stack([np.int32(known[example])[places] for example, places in zip(owner, word)])
        return Encoded(owner, np.array([len(row) for row in rows], np.int32), tokens, {})

    def reference(self, example):
        return [str(label) for label in example["labels"]]

    def answers(self, examples, encoded, outputs, tokenizer):
        found = [[self.usual] * len(example["words"]) for example in examples]
        for row, at in zip(*np.nonzero(encoded.tokens["word"] >= 0)):
            word = encoded.tokens["word"][row, at]
            found[encoded.example[row]][word] = self.labels[outputs["label"][row, at]]
        return [{"id": example["id"], "prediction": tags} for example, tags in zip(examples, found)]

    def check_prediction(self, prediction):
        if not isinstance(prediction, list) or not all(isinstance(tag, str) for tag in prediction):
            raise ValueError(f"a prediction is a list of tags, one a word, not {prediction!r:.80}")

    def compared(self, answers, examples):
        predictions, references = super().compared(answers, examples)
        for example, tags in zip(examples, predictions):
            if len(tags) != len(example["words"]):
                raise UserError(f"example {example['id']!r}: {len(tags)} tags for its {len(example['words'])} words")
        return predictions, references

    def plain_net(self, body, vocab):
        return token_net(body, vocab.size, len(self.labels), dropout=self.dropout)

    def predicted(self, length):
        return {"task": float(length)}

    def weights(self, batch, vocab):
        return {"task": _labelled(batch).sum()}

    def losses(self, net, variables, batch: Batch, context: StepContext) -> Losses:
        logits_BLC = context.apply(net, variables, self.inputs(batch, context.vocab), method="answer")
        weight_BL, label_BL = _labelled(batch), jnp.maximum(batch["label"], 0)
        nll_BL = -jnp.take_along_axis(jax.nn.log_softmax(logits_BLC), label_BL[..., None], axis=-1)[..., 0]
        correct = jnp.sum((logits_BLC.argmax(axis=-1) == label_BL) * weight_BL)
        return Losses({"task": jnp.sum(nll_BL * weight_BL)}, {"accuracy": (correct, weight_BL.sum())})

    @property
    def by_token(self):
        return frozenset({"label"})

    def predict(self, net, variables, batch, context):
        logits_BLC = context.apply(net, variables, self.inputs(batch, context.vocab), method="answer")
        return {"label": logits_BLC.argmax(axis=-1).astype(jnp.int32)}


def first_pieces(words: Sequence[str], spans: np.ndarray) -> np.ndarray:
    """int32[n]: at the first piece of each word the word's place, elsewhere -1. spans: int32[n, 2], of the pieces in
    the words with a space between them. A piece belongs to the word in which it ends."""
    bounds = np.cumsum([0] + [len(word) + 1 for word in words])  # where words begin
    last = spans[:, 1] - 1
    word = np.searchsorted(bounds, last, side="right") - 1
    inside = (spans[:, 1] > spans[:, 0]) & (last < bounds[word + 1] - 1)
    word = np.where(inside, word, -1).astype(np.int32)
    _, first = np.unique(word, return_index=True)
    found = np.full(len(word), -1, np.int32)
    found[first] = word[first]
    return found


def _labelled(batch: Batch) -> jax.Array:
    """f32[B, L]: 1 where there is a label."""
    return real(batch)[:, None] * (batch["label"] >= 0)
