"""`VocabSpec`: what models, objectives and metrics know of a vocabulary."""

import dataclasses
import functools
import unicodedata
from collections.abc import Sequence
from typing import Literal

import numpy as np

Side = Literal["end", "begin"]

CONTROL_PIECES = ("<pad>", "<unk>", "<s>", "</s>", "<mask>", "<cls>", "<sep>")  # ids 0 to 6, in this order
_SENTENCE_ENDS = (".", "!", "?", "\u3002", "\uff01", "\uff1f")  # the latter as Chinese and Japanese write them


@dataclasses.dataclass(frozen=True, eq=False)
class VocabSpec:
    """A vocabulary as plain numbers: all that a model, an objective or a metric may know of the tokenizer.

    A *unit* (word) begins at position i of a row where `starts_word[token[i]] | ends_word[token[i - 1]]`, and at i = 0.
    """

    size: int
    pad_id: int
    unk_id: int
    bos_id: int
    eos_id: int
    mask_id: int
    cls_id: int
    sep_id: int
    boundary_id: int  # the token between documents of the stream: eos_id (side 'end') or bos_id (side 'begin')
    boundary_side: Side  # which side of its document the boundary stands on
    special_ids: tuple[int, ...]  # control pieces and unk: never corrupted, never drawn as a random replacement
    starts_word: np.ndarray  # bool[size]: the piece begins a unit
    ends_word: np.ndarray  # bool[size]: whatever follows begins a unit (punctuation, newline, control pieces)
    ends_sentence: np.ndarray  # bool[size]: the piece's text ends with . ! or ?, or contains a newline
    piece_bytes: np.ndarray  # int32[size]: UTF-8 bytes of (normalised) text that the piece stands for; special ids 0
    added: int = 0  # ids behind the rows of a published table: roles that its tokenizer lacks, such as mask and pad
    sentinels: tuple[int, ...] = ()  # ids that a published tokenizer has for them, in order: T5's <extra_id_0>, ...
    extra: int = 0  # how many of the last ids are an objective's own
    extra_ids: tuple[int, ...] = ()  # all that an objective uses as its own: sentinels, mode tokens

    @property
    def rows(self) -> int:
        """Rows of the published table: the ids before those that are added to it."""
        return self.size - self.extra - self.added

    def extended(self, count: int) -> "VocabSpec":
        """With `count` special ids for an objective, which have rows in the embedding table and no text: the
        tokenizer's sentinels, as far as there are any, then new ones behind its own."""
        assert not self.extra_ids, "extend the tokenizer's vocabulary once"
        there = self.sentinels[:count]
        extra = count - len(there)
        ids, flags = tuple(range(self.size, self.size + extra)), np.ones(extra, bool)
        return dataclasses.replace(
            self,
            size=self.size + extra,
            extra=extra,
            extra_ids=there + ids,
            special_ids=self.special_ids + ids,
            starts_word=np.append(self.starts_word, flags),
            ends_word=np.append(self.ends_word, flags),
            ends_sentence=np.append(self.ends_sentence, ~flags),
            piece_bytes=np.append(self.piece_bytes, np.zeros(extra, np.int32)),
        )

    @functools.cached_property
    def ordinary(self) -> np.ndarray:
        """bool[size]: the ids that are text, not special."""
        result = np.ones(self.size, bool)
        result[list(self.special_ids)] = False
        return result

    @classmethod
    def synthetic(cls, size: int, boundary_side: Side = "end") -> "VocabSpec":
        """A vocabulary without a tokenizer, for tests and benchmarks: ids 0 to 6 as `CONTROL_PIECES`, then pieces of
        1 to 4 bytes of which two in three begin a word and one in eight ends a sentence. `size` is at least 8."""
        ids = np.arange(size)
        control = ids < len(CONTROL_PIECES)
        return cls(
            size=size,
            pad_id=0,
            unk_id=1,
            bos_id=2,
            eos_id=3,
            mask_id=4,
            cls_id=5,
            sep_id=6,
            boundary_id=3 if boundary_side == "end" else 2,
            boundary_side=boundary_side,
            special_ids=tuple(range(len(CONTROL_PIECES))),
            starts_word=control | (ids % 3 != 0),
            ends_word=control,
            ends_sentence=~control & (ids % 8 == 0),
            piece_bytes=np.where(control, 0, 1 + ids % 4).astype(np.int32),
        )


def text_tables(
    texts: Sequence[str], special: np.ndarray, byte: np.ndarray, begins: np.ndarray, sizes: Sequence[int]
) -> dict[str, np.ndarray]:
    """The tables of a `VocabSpec`, from what each id stands for.

    texts: the text, a leading space included. special, byte: bool[size]: no text; a single byte of it. begins:
    bool[size]: the piece is written as the begin of a word. sizes: bytes of the text.
    """
    alone = special | np.array([not byte[i] and _is_punctuation(text) for i, text in enumerate(texts)])
    ends = np.array([text.endswith(_SENTENCE_ENDS) or "\n" in text for text in texts])
    return {
        "starts_word": alone | begins,
        "ends_word": alone,
        "ends_sentence": ~special & ends,
        "piece_bytes": np.where(special, 0, sizes).astype(np.int32),
    }


def _is_punctuation(text: str) -> bool:
    """Nothing but spaces (a single one begins a word), line ends, punctuation and symbols; "_" counts as a letter."""
    return text != " " and all(c != "_" and (c.isspace() or unicodedata.category(c)[0] in "PS") for c in text)
