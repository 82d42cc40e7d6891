"""Questions whose answer is a span of a context: SQuAD 1.1 and 2.0."""

from collections.abc import Sequence

import chz
import jax
import jax.numpy as jnp
import numpy as np

from ptjax.config import UserError
from ptjax.data.examples import Example
from ptjax.data.tokenizers import Tokenizer
from ptjax.metrics.answers import AnswerF1, ExactMatch
from ptjax.models.task_nets import token_net
from ptjax.objectives.base import StepContext
from ptjax.tasks.base import Task, real
from ptjax.tasks.encoded import Encoded
from ptjax.tasks.windows import stacked, windows
from ptjax.types import Array, Batch, Losses

SHOWN = 5  # of the best answers, in what is written
OUTSIDE = -1e30  # logit of a token that no answer can begin or end with


@chz.chz
class QuestionAnswering(Task):
    """Where the answer begins and where it ends, each a softmax over the context's tokens and the null position (Devlin
    et al., 2019, sections 4.2 and 4.3). Examples have 'question', 'context' and 'answers', none where the context does
    not answer. The null position is the first token of a row, or the last where attention is causal; it is right in
    windows that do not hold the whole answer."""

    holds = ("question", "context", "answers")

    length: int = chz.field(default=384, doc="tokens of the longest row")
    metric: str = chz.field(default="f1", doc="the headline: f1 or exact_match")
    stride: int | None = chz.field(
        default=None, doc="tokens of the context that two windows have in common; None: a third of length"
    )
    max_question: int = chz.field(default=64, doc="tokens of a question; it loses what is more, at its end")
    max_answer: int = chz.field(default=30, doc="tokens of the longest answer that is predicted")
    n_best: int = chz.field(default=20, doc="likeliest begins, and likeliest ends, of a window that are tried")
    unanswerable: bool | None = chz.field(
        default=None, doc="whether it may predict that there is no answer; None: where a training example has none"
    )
    null_threshold: float = chz.field(
        default=0.0, doc="no answer is predicted where its logits are above the best answer's by more than this"
    )

    @chz.validate
    def _sizes(self):
        if (self.stride or 0) < 0 or min(self.max_question, self.max_answer, self.n_best) < 1:
            raise ValueError("task.stride must be at least 0; max_question, max_answer and n_best at least 1")

    @property
    def overlap(self) -> int:
        """Tokens of the context that two windows have in common."""
        return self.length // 3 if self.stride is None else self.stride

    def metrics(self):
        return AnswerF1(), ExactMatch()

    def mistake(self, example):
        answers = example.get("answers", [])
        is_answer = lambda x: isinstance(x, dict) and {"text", "start"} <= x.keys()  # noqa: E731
        if not isinstance(answers, list) or not all(map(is_answer, answers)):
            return f"has the answers {answers!r:.80}: that is a list of {{'text', 'start'}}"
        return super().mistake(example)

    def resolved(self, train):
        if self.unanswerable is not None:
            return self
        return chz.replace(self, unanswerable=any(not example["answers"] for example in train))

    def encode(self, examples: Sequence[Example], tokenizer: Tokenizer) -> Encoded:
        """Beside 'tokens' and 'types': 'piece', at a token of the context its place there, counted from 1, else 0; and
        where no answers are hidden 'start' and 'end', the answer's first and last token in the row, else -1. Kept: of
        each context the spans of its pieces."""
        labelled = all("answers" in example for example in examples)
        questions = tokenizer.encode_batch([example["question"] for example in examples])
        read = _contexts(examples, tokenizer)
        owner, rows, types, pieces, bounds = [], [], [], [], []
        for number, (example, question) in enumerate(zip(examples, questions)):
            question, (context, spans) = question[: self.max_question], read[example["context"]]
            answer = _answer_pieces(example, spans) if labelled else None
            for start, stop in windows(len(context), self._room(example, question, tokenizer), self.overlap):
                ids, kinds, first = self._framed(question, context[start:stop], tokenizer)
                piece = np.zeros(len(ids), np.int32)
                piece[first : first + stop - start] = np.arange(start, stop) + 1
                holds = answer is not None and start <= answer[0] and answer[1] < stop
                bounds.append([place - start + first for place in answer] if holds else [-1, -1])
                owner.append(number)
                rows.append(ids)
                types.append(kinds)
                pieces.append(piece)
        tokens = {"tokens": stacked(rows, tokenizer.vocab.pad_id), "types": stacked(types, 0, np.int8)}
        start, end = np.array(bounds, np.int32).T
        labels = {"start": start, "end": end} if labelled else {}
        size = np.array([len(row) for row in rows], np.int32)
        spans = {context: spans for context, (_, spans) in read.items()}
        return Encoded(np.array(owner, np.int32), size, tokens | {"piece": stacked(pieces, 0)}, labels, kept=spans)

    def _room(self, example: Example, question: np.ndarray, tokenizer: Tokenizer) -> int:
        """Tokens of a window's context."""
        ids, _, _ = self._framed(question, question[:0], tokenizer)
        room = self.length - len(ids)
        if room <= self.overlap:
            raise UserError(
                f"example {example['id']!r}: its question leaves {max(room, 0)} tokens for the context, and windows "
                f"have task.stride={self.overlap} in common: raise task.length, or lower task.stride or "
                "task.max_question"
            )
        return room

    def _framed(self, question: np.ndarray, context: np.ndarray, tokenizer: Tokenizer):
        """The ids of a row, their types, and where the context begins."""
        items = [item for item, _ in tokenizer.pair_template]
        before = items[: items.index("b")]
        ids, types = tokenizer.frame_pair(question, context)
        if self.attention == "causal" and items[-1] == "b":  # the null position sees everything, and is no answer's
            ids, types = np.append(ids, np.int32(tokenizer.vocab.boundary_id)), np.append(types, types[-1:])
        return ids, types, len(before) + ("a" in before) * (len(question) - 1)

    def reference(self, example):
        return [answer["text"] for answer in example["answers"]]

    def answers(self, examples, encoded, outputs, tokenizer):
        rows: list[list[int]] = [[] for _ in examples]
        for row, number in enumerate(encoded.example):
            rows[number].append(row)
        found = []
        for example, own in zip(examples, rows):
            spans, best = encoded.kept[example["context"]], {}
            for row in own:
                for score, start, end in self._candidates(encoded.tokens["piece"][row], outputs, row):
                    text = example["context"][spans[start, 0] : spans[end, 1]].strip()
                    if text:
                        best[text] = max(score, best.get(text, OUTSIDE))
            ranked = sorted(best.items(), key=lambda item: -item[1])
            text, score = ranked[0] if ranked else ("", OUTSIDE)
            odds = min(float(outputs["null"][row]) for row in own) - score
            shown = [{"text": text, "score": round(score, 4)} for text, score in ranked[:SHOWN]]
            none = self.unanswerable and odds > self.null_threshold
            answer = {"id": example["id"], "prediction": "" if none else text}
            found.append(answer | {"n_best": shown, "null_odds": round(odds, 4)})
        return found

    def _candidates(self, piece: np.ndarray, outputs, row: int):
        """(score, first and last piece of the context) of a window's answers, the best first. piece: of `encode`."""
        first, last = piece[outputs["start"][row]] - 1, piece[outputs["end"][row]] - 1
        score = outputs["start_logit"][row][:, None] + outputs["end_logit"][row]
        length = last - first[:, None] + 1
        legal = (first[:, None] >= 0) & (last >= 0) & (length >= 1) & (length <= self.max_answer)
        i, j = np.nonzero(legal)
        order = np.argsort(-score[i, j], kind="stable")[: self.n_best]
        return [(float(score[a, b]), int(first[a]), int(last[b])) for a, b in zip(i[order], j[order])]

    def check_prediction(self, prediction):
        if not isinstance(prediction, str):
            raise ValueError(f"a prediction is a text, '' for no answer, not {prediction!r:.80}")

    def plain_net(self, body, vocab):
        return token_net(body, vocab.size, 2, dropout=self.dropout)

    def weights(self, batch, vocab):
        return {"task": real(batch).sum()}

    def losses(self, net, variables, batch: Batch, context: StepContext) -> Losses:
        logits_BL2, null_B = self._logits(net, variables, batch, context), self._null(batch)
        target_B2 = jnp.stack([batch["start"], batch["end"]], axis=1)
        target_B2 = jnp.where(target_B2 < 0, null_B[:, None], target_B2)
        scores_BL2 = jax.nn.log_softmax(logits_BL2, axis=1)
        nll_B = -jnp.take_along_axis(scores_BL2, target_B2[:, None], axis=1)[:, 0].mean(axis=1)
        exact_B = jnp.all(logits_BL2.argmax(axis=1) == target_B2, axis=1)
        weight_B = real(batch)
        return Losses({"task": jnp.sum(nll_B * weight_B)}, {"exact": (jnp.sum(exact_B * weight_B), weight_B.sum())})

    def predict(self, net, variables, batch, context):
        """Of each row the best `n_best` begins and ends among tokens of the context: 'start', 'end', places in the row,
        with their logits; and 'null', the sum of both logits at the null position."""
        logits_BL2, null_B = self._logits(net, variables, batch, context), self._null(batch)
        inside_BL = batch["piece"] > 0
        found = {"null": jnp.take_along_axis(logits_BL2, null_B[:, None, None], axis=1).sum(axis=(1, 2))}
        count = min(self.n_best, inside_BL.shape[1])
        spare = ((0, 0), (0, self.n_best - count))
        for i, name in enumerate(("start", "end")):
            logit_BK, place_BK = jax.lax.top_k(jnp.where(inside_BL, logits_BL2[..., i], OUTSIDE), count)
            found[f"{name}_logit"] = jnp.pad(logit_BK, spare, constant_values=OUTSIDE)
            found[name] = jnp.pad(jnp.where(logit_BK > OUTSIDE, place_BK, 0), spare)  # place 0 is none of the context
        return found

    def _logits(self, net, variables, batch: Batch, context: StepContext) -> Array:
        """f32[B, L, 2]"""
        logits_BL2 = context.apply(net, variables, self.inputs(batch, context.vocab), method="answer")
        index_L = jnp.arange(logits_BL2.shape[1])
        legal_BL = (batch["piece"] > 0) | (index_L == self._null(batch)[:, None])
        return jnp.where(legal_BL[..., None], logits_BL2, OUTSIDE)

    def _null(self, batch: Batch) -> Array:
        """i32[B]: the null position."""
        return batch["size"] - 1 if self.attention == "causal" else jnp.zeros_like(batch["size"])


def covering(spans: np.ndarray, start: int, stop: int) -> tuple[int, int] | None:
    """(first, last) of the fewest pieces that cover these characters; None where no piece stands for any of them.
    spans: int32[n, 2], of the pieces."""
    touching = np.flatnonzero((spans[:, 1] > start) & (spans[:, 0] < stop) & (spans[:, 0] < spans[:, 1]))
    return (int(touching[0]), int(touching[-1])) if len(touching) else None


def _contexts(examples: Sequence[Example], tokenizer: Tokenizer) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """`encode_offsets` of each context, once."""
    return {context: tokenizer.encode_offsets(context) for context in {example["context"] for example in examples}}


def _answer_pieces(example: Example, spans: np.ndarray) -> tuple[int, int] | None:
    """Those of the first answer; None where there is no answer."""
    if not example["answers"]:
        return None
    answer = example["answers"][0]
    return covering(spans, answer["start"], answer["start"] + len(answer["text"]))
