"""Ragged work on the host: what turns a batch of rows into what an objective poses its question about."""

from typing import Protocol

import numpy as np

from ptjax.data.tokenizers import VocabSpec


class Stream(Protocol):
    """The tokens of a split as a transform reads them. Documents are numbered along the stream."""

    vocab: VocabSpec
    length: int  # tokens of a row; row i is [i * length, (i + 1) * length)
    documents: int

    def read(self, start: int, stop: int) -> np.ndarray:
        """int32[stop - start], or less at the end of the stream."""

    def document_of(self, position: int) -> int:
        """The number of the document that the token at `position` belongs to."""

    def document(self, number: int) -> tuple[int, int]:
        """[start, stop) of a document, its boundary token included."""


class Transform(Protocol):
    """A frozen value that travels to reader processes. Draws from (seed, step, batch['index']) alone."""

    def __call__(self, batch: dict[str, np.ndarray], stream: Stream, seed: int, step: int) -> dict[str, np.ndarray]:
        """The batch with arrays added, each [b, ...] of a static shape; 'tokens' stays as it is. Rows with index -1
        only fill up."""
