"""What every tokenizer can do."""

import functools
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ptjax.data.tokenizers.vocab import Side, VocabSpec


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
