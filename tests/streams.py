"""A stream in memory, for tests of what reads one."""

import dataclasses
import functools

import numpy as np

from ptjax.data.tokenizers import VocabSpec

VOCAB = {side: VocabSpec.synthetic(5000, side) for side in ("end", "begin")}


@dataclasses.dataclass(frozen=True, eq=False)
class Text:
    """Documents one after another, as a `Stream`; what it says of them is found by looking."""

    vocab: VocabSpec
    length: int
    tokens: np.ndarray

    @classmethod
    def join(cls, documents: list[np.ndarray], length: int, vocab: VocabSpec) -> "Text":
        at_end = vocab.boundary_side == "end"
        parts = [np.insert(document, len(document) if at_end else 0, vocab.boundary_id) for document in documents]
        return cls(vocab, length, np.concatenate(parts).astype(np.int32))

    @classmethod
    def of(cls, sizes: list[int], length: int, side: str, seed: int = 0) -> "Text":
        """Documents of so many ordinary tokens, none of which comes twice, so that each tells where it stands."""
        vocab = VOCAB[side]
        ids = np.random.default_rng(seed).permutation(np.arange(7, vocab.size))[: sum(sizes)]
        return cls.join(np.split(ids, np.cumsum(sizes)[:-1]), length, vocab)

    @functools.cached_property
    def bounds(self) -> list[tuple[int, int]]:
        marks = np.flatnonzero(self.tokens == self.vocab.boundary_id)
        edges = [0, *(marks + 1)] if self.vocab.boundary_side == "end" else [*marks, len(self.tokens)]
        return list(zip(edges[:-1], edges[1:]))

    @property
    def documents(self) -> int:
        return len(self.bounds)

    def read(self, start, stop):
        assert 0 <= start <= stop
        return self.tokens[start:stop]

    def document_of(self, position):
        (number,) = [i for i, (start, stop) in enumerate(self.bounds) if start <= position < stop]
        return number

    def document(self, number):
        return self.bounds[number]

    def batch(self, rows=None) -> dict[str, np.ndarray]:
        """All rows, or these; -1 fills up."""
        full = np.append(self.tokens, np.full(-len(self.tokens) % self.length, self.vocab.pad_id)).astype(np.int32)
        full = np.append(full.reshape(-1, self.length), np.full((1, self.length), self.vocab.pad_id, np.int32), axis=0)
        rows = np.arange(len(full) - 1) if rows is None else np.asarray(rows)
        return {"index": rows.astype(np.int32), "tokens": full[rows]}

    def places(self, tokens: np.ndarray) -> np.ndarray:
        """Where in the stream these stand."""
        return np.array([np.flatnonzero(self.tokens == token).item() for token in tokens])
