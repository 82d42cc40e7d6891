"""Ragged work on the host: what turns a batch of rows into what an objective poses its question about."""

import dataclasses
from collections.abc import Callable
from typing import Literal, Protocol

import numpy as np

from ptjax.config import UserError
from ptjax.data.tokenizers import VocabSpec

Batch = dict[str, np.ndarray]


class Stream(Protocol):
    """The tokens of a split as a transform reads them. Documents are numbered along the stream."""

    vocab: VocabSpec
    length: int  # tokens of a row; row i is [i * length, (i + 1) * length)

    @property
    def documents(self) -> int:
        """How many there are."""

    def read(self, start: int, stop: int) -> np.ndarray:
        """int32[stop - start], or less at the end of the stream."""

    def document_of(self, position: int) -> int:
        """The number of the document that the token at `position` belongs to."""

    def document(self, number: int) -> tuple[int, int]:
        """[start, stop) of a document, its boundary token included."""


class Transform(Protocol):
    """A frozen value that travels to reader processes. Draws from (seed, step, batch['index']) alone."""

    def check(self, stream: Stream) -> None:
        """Raises UserError where this stream cannot give what the transform makes of it."""

    def __call__(self, batch: Batch, stream: Stream, seed: int, step: int) -> Batch:
        """The batch with arrays added, each [b, ...] of a static shape; 'tokens' stays as it is. Rows with index -1
        only fill up."""


@dataclasses.dataclass(frozen=True)
class SentencePairs:
    """A pair of sentences A, B from each row, and a question about it.

    The longest piece of one document in the row is cut at a sentence end, any one as likely as another, or at a word
    where too few sentences end. In half of the rows (label 0) A and B are its two parts. In the others (label 1),

    'next': B is text of another document, each as likely, from the start of the sentence (or word) at a random place,
    as long as the true one or to the document's end: next sentence prediction (BERT; Devlin et al., 2019).
    'order': the whole sentences (or words) of A and of B have changed places: sentence order prediction (ALBERT; Lan et
    al., 2020). The parts of sentences at both ends of the piece stay where they are: were they swapped too, an A that
    ends within a sentence would give the label away; and without them a short row loses half of its text.

    "Sentence" is BERT's word for a span of text: A and B together fill the row where they can. What is too long by the
    three control tokens is taken off the longer one, each token from its front or its back (as in BERT's code).

    Adds, under names that begin with the kind:
        next_tokens int32[b, L]: [CLS] A [SEP] B [SEP], then padding, with L the row length.
        next_types int32[b, L]: 1 for B and the [SEP] behind it, else 0.
        next_label int32[b]: 0 where B follows A, 1 where it does not.
        next_weight float32[b]: 0 for a row that gives no pair, and then is all padding: less than two words of one
            document ('order': less than two whole words between two others).
    """

    kind: Literal["next", "order"]

    def check(self, stream: Stream) -> None:
        if stream.length < 5:
            raise UserError(f"length={stream.length}: a sentence pair and its control tokens need 5 at least")
        if self.kind == "next" and stream.documents < 2:
            raise UserError(
                "next sentence prediction takes sentences from another document, but there is one alone in a split: "
                "prepare it with smaller documents (TextFiles: (data.corpus.)source.documents=blank_line) or use SOP"
            )

    def __call__(self, batch: Batch, stream: Stream, seed: int, step: int) -> Batch:
        rows, vocab = batch["tokens"], stream.vocab
        shape = rows.shape
        tokens, types = np.full(shape, vocab.pad_id, np.int32), np.zeros(shape, np.int32)
        label, weight = np.zeros(shape[0], np.int32), np.zeros(shape[0], np.float32)
        starts, stops = _longest_pieces(rows, vocab)
        for i, index in enumerate(batch["index"].tolist()):
            piece = rows[i, starts[i] : stops[i]]
            for begins in (_sentence_starts, _word_starts):
                cuts = found = begins(piece, vocab)
                if self.kind == "order":
                    cuts = found[1:-1]  # a whole one at least on either side
                if len(cuts):
                    break
            if not len(cuts) or index < 0:
                continue
            bits = _bits(seed, step, index)
            cut = cuts[_below(len(cuts), bits[0])]
            a, b = piece[:cut], piece[cut:]
            label[i], weight[i] = bits[1] & 1, 1.0
            if label[i] and self.kind == "order":
                head, one, other, tail = np.split(piece, [found[0], cut, found[-1]])
                a, b = np.concatenate([head, other]), np.concatenate([one, tail])
            elif label[i]:
                own = stream.document_of(index * stream.length + int(starts[i]))
                b = _from_another(stream, own, len(b), begins, bits[2], bits[3])
            a, b = _truncated(a, b, shape[1] - 3, bits[1] >> 1)
            middle, end = len(a) + 2, len(a) + len(b) + 3
            tokens[i, 0], tokens[i, middle - 1], tokens[i, end - 1] = vocab.cls_id, vocab.sep_id, vocab.sep_id
            tokens[i, 1 : middle - 1], tokens[i, middle : end - 1] = a, b
            types[i, middle:end] = 1
        added = {"tokens": tokens, "types": types, "label": label, "weight": weight}
        return batch | {f"{self.kind}_{name}": array for name, array in added.items()}


def _longest_pieces(rows_BL: np.ndarray, vocab: VocabSpec) -> tuple[np.ndarray, np.ndarray]:
    """[start, stop) of each row's longest run without a boundary or padding, [b] each."""
    outside_BL = (rows_BL == vocab.boundary_id) | (rows_BL == vocab.pad_id)
    place_L = np.arange(rows_BL.shape[1])
    last_outside_BL = np.maximum.accumulate(np.where(outside_BL, place_L, -1), axis=1)
    run_BL = place_L - last_outside_BL  # tokens of the run so far
    stop_B = run_BL.argmax(axis=1) + 1
    return stop_B - run_BL.max(axis=1), stop_B


def _sentence_starts(tokens: np.ndarray, vocab: VocabSpec) -> np.ndarray:
    """Places but the first where a sentence begins."""
    ends = vocab.ends_sentence[tokens]
    return np.flatnonzero(ends[:-1] & ~ends[1:]) + 1  # "...\n" ends one sentence, not four


def _word_starts(tokens: np.ndarray, vocab: VocabSpec) -> np.ndarray:
    """Places but the first where a word begins."""
    return np.flatnonzero(vocab.starts_word[tokens[1:]] | vocab.ends_word[tokens[:-1]]) + 1


def _from_another(
    stream: Stream, own: int, length: int, begins: Callable, document_bits: int, place_bits: int
) -> np.ndarray:
    """`length` tokens, or all, of a random document but `own`, from the start of a sentence (or word, as `begins` says)
    that holds a random place; where that lies more than a row back, from the start of the word."""
    number = _below(stream.documents - 1, document_bits)
    start, stop = stream.document(number + (number >= own))
    if stream.vocab.boundary_side == "end":
        stop -= 1
    else:
        start += 1
    # One behind which so many tokens follow, so that B's length tells little about the label.
    place = start + _below(max(stop - start - length, 0) + 1, place_bits)
    first = max(place - stream.length, start)
    before = stream.read(first, place + 1)
    found = begins(before, stream.vocab)
    if not len(found) and first > start:
        found = _word_starts(before, stream.vocab)
    place = first + int(found[-1]) if len(found) else first
    return stream.read(place, min(place + length, stop))


def _truncated(a: np.ndarray, b: np.ndarray, length: int, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """a and b with at most `length` tokens in all."""
    while len(a) + len(b) > length:
        kept = slice(1, None) if bits & 1 else slice(None, -1)
        a, b = (a[kept], b) if len(a) > len(b) else (a, b[kept])
        bits >>= 1
    return a, b


def _bits(seed: int, step: int, index: int) -> list[int]:
    """Four random numbers of 64 bits, the same on any machine: a block of Philox (Salmon et al., 2011)."""
    return np.random.Philox(key=[seed, step], counter=[index, 0, 0, 0]).random_raw(4).tolist()


def _below(n: int, bits: int) -> int:
    """A number in range(n) from 64 random bits."""
    return int(n) * bits >> 64
