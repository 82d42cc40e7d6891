"""Multiple choice: which of several texts goes with a text."""

import re
from collections.abc import Sequence

import chz
import jax
import jax.numpy as jnp
import numpy as np

from ptjax.data.examples import Example
from ptjax.data.tokenizers import Tokenizer
from ptjax.metrics.classification import Accuracy
from ptjax.objectives.base import StepContext
from ptjax.tasks.base import real
from ptjax.tasks.encoded import Encoded
from ptjax.tasks.sequence import PooledTask, encode_texts, packed
from ptjax.types import Array, Batch, Losses


@chz.chz
class MultipleChoice(PooledTask):
    """Each choice stands in a row of its own behind the text, and a linear layer gives one number a row; cross entropy
    of the softmax over an example's choices (Devlin et al., 2019, section 4.4). Examples have 'text', 'choices', any
    number of them, and 'label', the place of the right one. Of texts that are too long the longer one loses tokens at
    its end."""

    holds = ("text", "choices", "label")

    metric: str = chz.field(default="accuracy", doc="the headline: accuracy")
    most: int | None = chz.field(
        default=None, doc="choices that FLOPs are counted for; None: the most that a training example has"
    )

    def metrics(self):
        return (Accuracy(),)

    def mistake(self, example):
        choices, label = example["choices"], example.get("label", 0)
        if not isinstance(choices, list | tuple) or not all(isinstance(choice, str) for choice in choices):
            return f"has the choices {choices!r:.80}: that is a list of texts"
        if not choices:
            return "has no choices: name their columns in examples.choices"
        if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < len(choices):
            return f"has the label {label!r:.80}, and its {len(choices)} choices count from 0"
        return super().mistake(example)

    def resolved(self, train):
        return chz.replace(self, most=self.most or max(len(example["choices"]) for example in train))

    @property
    def outputs(self):
        return 1

    def encode(self, examples: Sequence[Example], tokenizer: Tokenizer) -> Encoded:
        """Arrays of tokens are [N, K, L], K the most choices of an example; 'choice_size', int32[N, K], is 0 for those
        that an example lacks."""
        count = np.array([len(example["choices"]) for example in examples])
        pairs = [{"id": x["id"], "text": x["text"], "pair": choice} for x in examples for choice in x["choices"]]
        flat = packed(encode_texts(pairs, tokenizer, self.length), tokenizer.vocab.pad_id, {})
        place = np.arange(count.max())
        there_NK = place < count[:, None]
        row_NK = (np.cumsum(count) - count)[:, None] + np.where(there_NK, place, 0)
        size_NK = np.where(there_NK, flat.size[row_NK], 0).astype(np.int32)
        labels = {"choice_size": size_NK}
        if all("label" in example for example in examples):
            labels["label"] = np.array([example["label"] for example in examples], np.int32)
        tokens = {name: array[row_NK] for name, array in flat.tokens.items()}
        example = np.arange(len(examples), dtype=np.int32)
        return Encoded(example, size_NK.max(axis=1), tokens, labels, read=size_NK.sum(axis=1))

    def reference(self, example):
        return str(example["label"])

    def answers(self, examples, encoded, outputs, tokenizer):
        found = []
        for example, scores in zip(examples, np.exp(outputs["log_probability"])):
            chances = [round(float(p), 6) for p in scores[: len(example["choices"])]]
            found.append({"id": example["id"], "prediction": str(int(scores.argmax())), "chances": chances})
        return found

    def check_prediction(self, prediction):
        if not isinstance(prediction, str) or not re.fullmatch("0|[1-9][0-9]*", prediction):
            raise ValueError(
                f"a prediction is the place of a choice, a text: '0' for the first; not {prediction!r:.80}"
            )

    def flops_per_row(self, model, length, vocab):
        return (self.most or 1) * super().flops_per_row(model, length, vocab)

    def inputs(self, batch, vocab):
        """A row a choice, [B * K, L]; one that an example lacks has a token to read: attention needs something."""
        rows = {name: batch[name].reshape(-1, batch[name].shape[-1]) for name in ("tokens", "types")}
        return super().inputs(rows | {"size": jnp.maximum(batch["choice_size"].reshape(-1), 1)}, vocab)

    def losses(self, net, variables, batch: Batch, context: StepContext) -> Losses:
        scores_BK, weight_B, label_B = self._scores(net, variables, batch, context), real(batch), batch["label"]
        nll_B = -jnp.take_along_axis(scores_BK, label_B[:, None], axis=1)[:, 0]
        correct = jnp.sum((scores_BK.argmax(axis=1) == label_B) * weight_B)
        return Losses({"task": jnp.sum(nll_B * weight_B)}, {"accuracy": (correct, weight_B.sum())})

    def predict(self, net, variables, batch, context):
        return {"log_probability": self._scores(net, variables, batch, context)}

    def _scores(self, net, variables, batch: Batch, context: StepContext) -> Array:
        """f32[B, K]: log probabilities, -inf for a choice that an example lacks."""
        logits = context.apply(net, variables, self.inputs(batch, context.vocab), method="answer")
        size_BK = batch["choice_size"]
        return jax.nn.log_softmax(jnp.where(size_BK > 0, logits.reshape(size_BK.shape), -jnp.inf), axis=1)
