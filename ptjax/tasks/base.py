"""What a task is: an objective with labelled examples, that predicts, and is scored."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import chz
import jax.numpy as jnp
import numpy as np

from ptjax.config import UserError, published
from ptjax.data.examples import Example, Examples
from ptjax.data.tokenizers import Tokenizer
from ptjax.metrics import Metric
from ptjax.objectives.base import Objective, StepContext
from ptjax.tasks.encoded import Encoded
from ptjax.tasks.tuning import Full, Tuning
from ptjax.types import Array, Batch, Mask, PyTree, TextInput

if TYPE_CHECKING:
    from ptjax.pretrained import Pretrained

Answer = dict[str, Any]  # what is written of an example: 'id', 'prediction', and what explains it


@chz.chz
class Task(Objective):
    """Base of tasks: the same loop as pre-training, with answers that are known. Fields that are None are found when
    the task meets its examples and a model, by `resolved` and `fitted`."""

    holds: ClassVar[tuple[str, ...]] = ()  # keys that an example must have; the last one may be hidden in a test

    name: str = chz.field(doc="in tables and names of files: letters, digits, - and _")
    examples: Examples = chz.field(meta_factory=chz.factories.subclass(Examples), doc="where they are")
    length: int = chz.field(default=128, doc="tokens of the longest row")
    metric: str = chz.field(doc="the headline: what is selected by and ranked by")
    limit: int | None = chz.field(default=None, doc="at most so many training examples; None: all")
    epochs: float | None = chz.field(default=None, doc="passes over the training examples; None: the recipe's")
    tuning: Tuning = chz.field(
        default_factory=Full, meta_factory=chz.factories.subclass(Tuning, Full), doc="what learns: Full, Probe or LoRA"
    )
    attention: Literal["causal", "bidirectional"] | None = chz.field(
        default=None, doc="who a token sees: those before it, or all; None: as the body was pre-trained"
    )
    dropout: float = chz.field(default=0.1, doc="of what the head reads")

    @chz.validate
    def _named(self):
        if not self.name or not all(c.isalnum() or c in "-_" for c in self.name):
            raise ValueError(f"task.name={self.name!r}: letters, digits, - and _")
        if self.length < 1 or (self.limit is not None and self.limit < 1):
            raise ValueError("task.length and task.limit must be at least 1")
        if self.epochs is not None and self.epochs <= 0:
            raise ValueError(f"task.epochs must be above 0, not {self.epochs}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"task.dropout must be in [0, 1), not {self.dropout}")
        known = [metric.name for metric in self.metrics()]
        if self.metric not in known:
            raise ValueError(f"task.metric={self.metric!r}: {type(self).__name__} is measured by {', '.join(known)}")

    @property
    def zero_shot(self) -> bool:
        """Whether it is judged without training, by `judge`."""
        return False

    @property
    def names_classes(self) -> bool:
        """Whether it predicts names of classes, of its field `labels`."""
        return hasattr(self, "labels")

    # On the host.

    def metrics(self) -> tuple[Metric, ...]:
        """All that it is measured by."""
        raise NotImplementedError

    @property
    def headline(self) -> Metric:
        return next(metric for metric in self.metrics() if metric.name == self.metric)

    def check_examples(self, examples: Sequence[Example], labelled: bool) -> None:
        """Raises UserError naming the first example that is not of the task's kind, and whose it is, or, where they
        have to be `labelled`, has no label. Labels that are there are looked at in any case."""
        asked = self.holds if labelled else self.holds[:-1]
        for example in examples:
            missing = [key for key in asked if key not in example]
            problem = _lacking(missing, example) if missing else self.mistake(example)
            if problem:
                kind = type(self).__name__
                raise UserError(f"task {self.name}, a {kind}: example {example['id']!r} {problem}")

    def labelled(self, examples: Sequence[Example], where: str) -> bool:
        """Whether their labels are known. where: they are, for messages. Raises UserError where some are, or cannot be
        read."""
        hidden = []
        for example in examples:
            try:
                self.reference(example)
            except KeyError:
                hidden.append(example["id"])
            except (TypeError, ValueError) as error:
                raise UserError(f"task {self.name}, {where}, example {example['id']!r}: {error}") from None
        if hidden and len(hidden) < len(examples):
            raise UserError(
                f"task {self.name}, {where}: {len(hidden)} of {len(examples)} examples have no label, as {hidden[0]!r}"
            )
        return bool(examples) and not hidden

    def mistake(self, example: Example) -> str | None:
        """What is wrong with an example that has the keys it must have: "has the label ...". None: nothing."""
        for key in ("text", "pair", "question", "context"):
            if not isinstance(example.get(key, ""), str):
                return f"has the {key} {example[key]!r:.80}: that is a text"
        return None

    def resolved(self, train: Sequence[Example]) -> "Task":
        """The task with what its training examples decide, such as its labels. Raises UserError for bad ones."""
        return self

    def fitted(self, start: "Pretrained") -> "Task":
        """The task with what the model that it begins from decides."""
        attention = self.attention or ("causal" if start.causal else "bidirectional")
        return chz.replace(self, attention=attention)

    def encode(self, examples: Sequence[Example], tokenizer: Tokenizer) -> Encoded:
        """Rows of at most `length` tokens. Raises UserError naming the example that cannot be read so."""
        raise NotImplementedError

    def answers(
        self, examples: Sequence[Example], encoded: Encoded, outputs: dict[str, np.ndarray], tokenizer: Tokenizer
    ) -> list[Answer]:
        """What is predicted of each example, in their order. outputs: of `predict`, [N, ...], a row of `encoded`
        each."""
        raise NotImplementedError

    def reference(self, example: Example) -> Any:
        """What a prediction of it is compared with. KeyError where it is hidden."""
        raise NotImplementedError

    def check_prediction(self, prediction: Any) -> None:
        """Raises ValueError saying what would be right for a prediction, read from a file, that cannot be one."""
        raise NotImplementedError

    def score(self, answers: Sequence[Answer], examples: Sequence[Example]) -> dict[str, float]:
        """Every metric, the headline first; answers[i] is of examples[i]."""
        predictions, references = self.compared(answers, examples)
        found = {metric.name: metric(predictions, references) for metric in self.metrics()}
        return {self.metric: found.pop(self.metric), **found}

    def compared(self, answers: Sequence[Answer], examples: Sequence[Example]) -> tuple[list, list]:
        """(predictions, references), as metrics take them."""
        given: Mapping[str, Any] = {answer["id"]: answer["prediction"] for answer in answers}
        return [given[x["id"]] for x in examples], [self.reference(x) for x in examples]

    @property
    def needs(self):
        return frozenset({"text", "pairs"})

    # On the device. Batches are those of `Encoded`: index, tokens, size, and what `encode` adds.

    def net(self, body, vocab):
        return self.tuning.net(self.plain_net(body, vocab))

    def plain_net(self, body, vocab):
        """The net without what `tuning` adds: a body under heads, with a method of its own for its logits."""
        raise NotImplementedError

    @property
    def by_token(self) -> frozenset[str]:
        """Outputs of `predict` whose second axis counts the tokens of a row, and is as long as the batch's longest."""
        return frozenset()

    def predict(self, net, variables: PyTree, batch: Batch, context: StepContext) -> dict[str, Array]:
        """What `answers` needs of each row, [B, ...]."""
        raise NotImplementedError

    def learns(self, path):
        # Of an encoder-decoder the encoder is read: the decoder, whose gradient is 0, must not wear down.
        unread = ("body", "decoder") in (path[:2], path[1:3])
        return not unread and self.tuning.learns(path)

    def inputs(self, batch, vocab):
        """A row that stands alone: i32[..., L], all of which is one text."""
        tokens = batch["tokens"]
        index_L = jnp.arange(tokens.shape[-1], dtype=jnp.int32)
        mask = Mask(causal=self.attention == "causal", valid=index_L < batch["size"][..., None])
        return TextInput(tokens, jnp.broadcast_to(index_L, tokens.shape), mask, batch.get("types"))

    def predicted(self, length):
        return {"task": 1.0}

    def projected(self, length):
        return 0

    def flops_per_row(self, body, length, vocab):
        if "pairs" in body.offers:  # the encoder is read
            return body.flops_per_pair(length, 0)
        return super().flops_per_row(body, length, vocab)


def real(batch: Batch) -> Array:
    """f32[B]: 1 for rows, 0 for those that only fill up."""
    return (batch["index"] >= 0).astype(jnp.float32)


def _lacking(keys: Sequence[str], example: Example) -> str:
    """In words: what an example has instead, and which tasks read such."""
    has = ", ".join(key for key in example if key != "id") or "nothing"
    tasks = [kind for kind in published(Task) if kind.metrics is not Task.metrics]
    able = [kind.__name__ for kind in tasks if kind.holds and example.keys() >= set(kind.holds)]
    hint = f": such examples are for {' or '.join(able)}" if able else ""
    return f"has no {' and no '.join(keys)}, but {has}{hint}"


def labels_of(names: Sequence[str], name: str) -> tuple[str, ...]:
    """The labels that occur, sorted. Raises UserError for fewer than two."""
    labels = tuple(sorted(set(names)))
    if len(labels) < 2:
        raise UserError(f"task {name}: its training examples have {len(labels)} label(s), {labels}: at least 2")
    return labels
