"""Batches of token rows as a pure function of (seed, step), from a prepared corpus."""

import dataclasses
from collections.abc import Iterator

import chz
import numpy as np

from ptjax.config import Config
from ptjax.data.prepare import Corpus
from ptjax.data.tokenizers import Tokenizer, VocabSpec


@chz.chz
class Data(Config):
    """What a run reads: a prepared corpus cut in rows of `length` tokens."""

    corpus: Corpus
    length: int = chz.field(default=128, doc="tokens a row: divides the corpus's block, or is a multiple of it")
    batch_size: int = chz.field(default=64, doc="rows a step, over all processes")
    window: int = chz.field(default=256, doc="blocks whose rows are shuffled together")
    workers: int = chz.field(default=0, doc="reader processes; 0 reads ahead in a thread, which is fast enough for text")


@dataclasses.dataclass(frozen=True)
class Shard:
    """Process `index` of `count`: it reads its own contiguous rows of every global batch."""

    index: int = 0
    count: int = 1


class Pipeline:
    """An open split. `shuffle` goes on for ever, epoch after epoch; without it, one sequential pass, whose last batch is
    filled up with rows of pad tokens and index -1.

    Attributes:
        vocab: VocabSpec; tokenizer: Tokenizer; rows: rows in the split; batch_size, length: of a global batch;
        steps_per_epoch: batches that cover the split once, rounded up; fingerprint: hash of data and tokenizer.
    """

    vocab: VocabSpec
    tokenizer: Tokenizer
    rows: int
    batch_size: int
    length: int
    steps_per_epoch: int
    fingerprint: str

    def __init__(self, data: Data, split: str = "train", *, seed: int = 0, shuffle: bool = True):
        raise NotImplementedError

    def iterate(self, start: int, stop: int | None = None, shard: Shard = Shard(),
                workers: int = 0) -> Iterator[dict[str, np.ndarray]]:
        """The batches of steps start to stop - 1, read ahead."""
        raise NotImplementedError


def batch_at(pipeline: Pipeline, step: int, shard: Shard = Shard()) -> dict[str, np.ndarray]:
    """The shard's rows of one global batch: 'index' int32[b], the row's number in the split (the same in every epoch),
    and 'tokens' int32[b, L]."""
    raise NotImplementedError
