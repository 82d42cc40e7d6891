"""What every tokenizer can do."""

import functools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np

from ptjax.data.tokenizers.spans import tidied
from ptjax.data.tokenizers.vocab import Side, VocabSpec

PairTemplate = tuple[tuple[int | Literal["a", "b"], int], ...]
"""How two texts stand in one row: ids and the texts, each with the sentence type of its tokens."""

BLANKS = " \u2581\u0120"  # how pieces write a space: as it is, as SentencePiece does, as GPT-2 does


class Tokenizer:
    """Text to ids and back. Thread-safe; pickles as its path.

    path: of the file or folder it was opened from. hash: of all that decides about ids. boundary_side: where the
    boundary between documents stands, which sets `vocab.boundary_id`.
    """

    path: str
    hash: str
    boundary_side: Side

    def __reduce__(self):
        from ptjax.data.tokenizers import open_tokenizer

        return open_tokenizer, (self.path, self.boundary_side)

    def encode(self, text: str) -> np.ndarray:
        """Token ids int32[n] of the text alone: no special token is added, and none is read out of the text."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        """`encode` of each text; other Python threads run meanwhile."""
        raise NotImplementedError

    def encode_offsets(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """The ids of `encode`, int32[n], and where each piece stands in the text: int32[n, 2], [start, stop) in
        characters (code points).

        Space beside what a piece says is not in its span. Pieces that stand for bytes or parts of one character all
        have it in theirs. What normalising leaves out, such as accents, belongs to the piece before it, or where there
        is none right before it, to the one behind. The space that tokenizers put before a text has an empty span.
        """
        ids, spans = self._spans(text)
        return ids, tidied(text, spans, [not piece.strip(BLANKS) for piece in self.pieces(ids)])

    def _spans(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """`encode_offsets` as the library has it, int32[n] and int32[n, 2]."""
        raise NotImplementedError

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids; special tokens vanish, bytes that are no UTF-8 become U+FFFD."""
        raise NotImplementedError

    def decode_inside(self, ids: Iterable[int]) -> str:
        """`decode` of a part of a longer text: a space before its first word stays, which many tokenizers take off."""
        return self.decode([self._word, *ids]).removeprefix(self.decode([self._word]))

    @functools.cached_property
    def _word(self) -> int:
        """A piece that is a whole word."""
        words = np.flatnonzero(self.vocab.starts_word & ~self.vocab.ends_word)
        return next((i for i in words.tolist() if self.decode([i]).strip().isalpha()), self.vocab.pad_id)

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """The pieces as they are written in the vocabulary."""
        raise NotImplementedError

    @functools.cached_property
    def vocab(self) -> VocabSpec:
        raise NotImplementedError

    @property
    def framing(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ids before and behind a text that stands alone, as the model was trained with."""
        raise NotImplementedError

    def frame(self, ids: np.ndarray) -> np.ndarray:
        """int32[n + k]: a text that stands alone as the model was trained to read it: [CLS] ids [SEP], ids </s>, ..."""
        before, behind = self.framing
        return np.concatenate([np.array(before, np.int32), np.asarray(ids, np.int32), np.array(behind, np.int32)])

    @functools.cached_property
    def closing_type(self) -> int | None:
        """The sentence type of the last id of every frame, where that is of a type of its own: of XLNet's <cls>, whose
        state stands for the whole. None: it has that of the text before it."""
        item, kind = self.pair_template[-1]
        second = dict(self.pair_template)["b"]
        return kind if kind > second and self.framing[1][-1:] == (item,) else None

    def frame_types(self, length: int) -> np.ndarray | None:
        """int32[length]: sentence types of what `frame` gives; None where all are 0."""
        if self.closing_type is None:
            return None
        return np.array([0] * (length - 1) + [self.closing_type], np.int32)

    @functools.cached_property
    def pair_template(self) -> PairTemplate:
        """Of two texts that stand together, as the model was trained to read them: [CLS] a [SEP] b [SEP], ... Where
        only texts alone have a frame, both have it (T5's a </s> b </s>); where none has, a boundary parts them."""
        before, behind = ([(i, 0) for i in ids] for ids in self.framing)
        if before or behind:
            return (*before, ("a", 0), *behind, *before, ("b", 0), *behind)
        return ("a", 0), (self.vocab.boundary_id, 0), ("b", 0)

    @property
    def pair_overhead(self) -> int:
        """How many ids `frame_pair` adds to those of the texts."""
        return len(self.pair_template) - 2

    def frame_pair(self, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Two texts in one row, by `pair_template`. a, b: ids int32[n], int32[m]. The ids, and their sentence types,
        int32[n + m + pair_overhead] each."""
        texts = {"a": a, "b": b}
        parts = [(np.asarray(texts.get(item, [item]), np.int32), kind) for item, kind in self.pair_template]
        types = [np.full(len(ids), kind, np.int32) for ids, kind in parts]
        return np.concatenate([ids for ids, _ in parts]), np.concatenate(types)

    def files(self) -> dict[str, bytes]:
        """Name -> contents of what a folder must hold to open the same tokenizer; the last one completes it."""
        raise NotImplementedError

    def export(self, folder: str | os.PathLike, *, added: bool = False) -> list[str]:
        """Writes the files that transformers reads into an existing folder; their names.

        added: with tokens for the `vocab.added` ids behind the published table, too.
        """
        raise NotImplementedError


def write_files(folder: str | os.PathLike, files: dict[str, bytes]) -> list[str]:
    for name, data in files.items():
        (Path(folder) / name).write_bytes(data)
    return list(files)
