"""A split of a task as rows that the net reads, and batches of it as pure functions of (seed, step)."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from ptjax.data.pipeline import permutation
from ptjax.data.sizes import half_power_of_two
from ptjax.data.tokenizers import Tokenizer

Batch = dict[str, np.ndarray]
SHORTEST = 16  # tokens of a row, as compiled: 16, 24, 32, 48, 64, 96, ...


@dataclasses.dataclass(frozen=True, eq=False)
class Encoded:
    """Rows, one or several an example.

    example: int32[N], the place of each row's example in its list. size: int32[N], tokens of the row (the longest, of a
    row of choices). tokens: arrays int[N, ..., L] whose last axis counts tokens, among them 'tokens', filled up behind
    `size` with what nothing reads. labels: arrays [N, ...] of anything else that the loss asks for; none where labels
    are hidden. read: int32[N], tokens of all that is read for a row; None: `size`. kept: what `Task.answers` asks for
    beside the outputs, as `Task.encode` has found it.
    """

    example: np.ndarray
    size: np.ndarray
    tokens: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    read: np.ndarray | None = None
    kept: Any = None

    def __len__(self) -> int:
        return len(self.size)

    @property
    def counts(self) -> np.ndarray:
        """int32[N]: the tokens that each row costs."""
        return self.size if self.read is None else self.read

    @property
    def length(self) -> int:
        return self.tokens["tokens"].shape[-1]

    def batch(self, rows: np.ndarray, length: int | None = None) -> Batch:
        """These rows (-1: one that only fills up), cut to `length` tokens (None: to what `fitting` says)."""
        real, length = np.maximum(rows, 0), length or self.fitting(rows)
        batch = {name: array[real, ..., :length].astype(np.int32) for name, array in self.tokens.items()}
        batch |= {name: array[real] for name, array in self.labels.items()}
        return batch | {"index": rows.astype(np.int32), "size": self.size[real].astype(np.int32)}

    def fitting(self, rows: np.ndarray) -> int:
        """The shortest of few lengths that holds these rows, so that little is compiled."""
        return half_power_of_two(int(self.size[np.maximum(rows, 0)].max()), SHORTEST, self.length)

    def train_rows(self, seed: int, step: int, batch_size: int) -> np.ndarray:
        """int64[batch_size]: rows of step `step`, counted from 0: every epoch is a permutation of all rows, and a batch
        may span two."""
        places = np.arange(step * batch_size, (step + 1) * batch_size)
        epochs, within = np.divmod(places, len(self))
        rows = np.empty(batch_size, np.int64)
        for epoch in np.unique(epochs):
            rows[epochs == epoch] = _order(len(self), seed, int(epoch))[within[epochs == epoch]]
        return rows

    def one_pass(self, batch_size: int) -> Iterator[np.ndarray]:
        """Batches of rows, every row once, those of similar size together; the last one is filled up with -1."""
        order = np.argsort(self.size, kind="stable")
        order = np.concatenate([order, np.full(-len(order) % batch_size, -1)])
        for start in range(0, len(order), batch_size):
            yield order[start : start + batch_size]


def readable(ids: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """The ids of a text; where there are none, and none frame it, the boundary: attention needs something."""
    return ids if len(ids) or any(tokenizer.framing) else np.array([tokenizer.vocab.boundary_id], np.int32)


_order = functools.lru_cache(maxsize=4)(permutation)  # each batch of an epoch asks for it
