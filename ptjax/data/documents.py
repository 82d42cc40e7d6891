"""Where the documents of a split begin and end in its stream of tokens."""

from pathlib import Path

import numpy as np

from ptjax.data.blocks import Blocks
from ptjax.data.tokenizers import VocabSpec

INDEX = "documents-{split}.npy"
_STRETCH = 1024  # blocks that are counted at a time


def write_index(path: Path, blocks: Blocks, boundary_id: int) -> Path:
    """Writes int64[blocks], the number of boundary tokens before each block. It follows from the tokens alone."""
    counts = [0]
    for start in range(0, len(blocks), _STRETCH):
        stretch = blocks.get(list(range(start, min(start + _STRETCH, len(blocks)))))
        counts += [np.count_nonzero(block == boundary_id) for block in stretch]
    with open(path, "wb") as file:
        np.save(file, np.cumsum(counts[:-1], dtype=np.int64))
    return path


class Documents:
    """The documents of a split, numbered along its stream; each is its text and its boundary token.

    Args:
        path: of the index.
        blocks: where tokens are looked up.
        count: of the documents.
        tokens: of the split, padding not counted.
    """

    def __init__(self, path: Path, blocks: Blocks, block: int, count: int, tokens: int, vocab: VocabSpec):
        self._before = np.load(path, mmap_mode="r")
        self._blocks, self._block, self._count, self._tokens, self._vocab = blocks, block, count, tokens, vocab

    def __len__(self) -> int:
        return self._count

    def number(self, position: int) -> int:
        """The number of the document that the token at `position` of the stream belongs to."""
        block, offset = divmod(position, self._block)
        at_end = self._vocab.boundary_side == "end"
        seen = self._blocks.get([block])[0][: offset + (not at_end)]  # a boundary at the begin counts for its own
        return int(self._before[block]) + int(np.count_nonzero(seen == self._vocab.boundary_id)) - (not at_end)

    def span(self, number: int) -> tuple[int, int]:
        """[start, stop) of a document in the stream."""
        if self._vocab.boundary_side == "end":
            return self._boundary(number - 1) + 1 if number else 0, self._boundary(number) + 1
        return self._boundary(number), self._boundary(number + 1) if number + 1 < self._count else self._tokens

    def _boundary(self, number: int) -> int:
        """The position of a boundary token."""
        block = int(np.searchsorted(self._before, number, side="right")) - 1
        places = np.flatnonzero(self._blocks.get([block])[0] == self._vocab.boundary_id)
        return block * self._block + int(places[number - self._before[block]])
