"""Batches of token rows as a pure function of (seed, step), from a prepared corpus.

The tokens of a split are one stream, kept in blocks. A *row* is `length` tokens of it, a *unit* the shortest piece of
it that is whole rows and whole blocks. Shuffled, an epoch is a permutation of the rows: the units are permuted over the
whole split, by Grain's stateless `index_shuffle`, then the rows within each window of successive units. So any step
can be had at once, and reading stays local enough to read each block about once. Contiguous, the split is cut in as
many lanes as a batch has rows, and each row of the batch reads its own lane from front to back.
"""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterator, Sequence
from typing import Literal

import chz
import numpy as np

from ptjax.config import Config, UserError
from ptjax.data.blocks import Blocks
from ptjax.data.documents import INDEX, Documents
from ptjax.data.prepare import Corpus
from ptjax.data.prepared import Prepared
from ptjax.data.transforms import Transform

Batch = dict[str, np.ndarray]


@chz.chz
class Data(Config):
    """What a run reads: a prepared corpus, cut in rows."""

    corpus: Corpus = chz.field(doc="the prepared corpus")
    length: int = chz.field(default=128, doc="tokens a row: divides the corpus's block, or is a multiple of it")
    batch_size: int = chz.field(default=64, doc="rows a step, over all processes")
    order: Literal["shuffled", "contiguous"] = chz.field(
        default="shuffled", doc="contiguous: each row of a batch goes on where it stood a step ago, for a memory"
    )
    window: int = chz.field(default=256, doc="blocks whose rows are shuffled together")
    workers: int = chz.field(default=0, doc="reader processes; 0 reads ahead in a thread, fast enough for text")


@dataclasses.dataclass(frozen=True)
class Shard:
    """Process `index` of `count`: it reads its own contiguous rows of every global batch."""

    index: int = 0
    count: int = 1


class Pipeline:
    """An open split of a prepared corpus, and the `Stream` of its tokens.

    With `shuffle` it goes on for ever, epoch after epoch, each in another order. Without, it is one sequential pass in
    which each row comes once; the last batch is filled up with rows of pad tokens and index -1.

    Where data.order is 'contiguous', row b of a batch reads lane b: of B lanes of n successive rows it gives row
    b n + t at step t of an epoch. With `shuffle` every epoch is that one, of n = rows // B, and up to B - 1 rows at the
    end are never read; without, n is rounded up, and what is missing at the end is filled up.

    `transforms` are applied to each batch in their order; those of an unshuffled pass draw as at step 0.

    Opening checks that every file is there in the size that was written, and that the tokenizer is the data's.

    Attributes:
        vocab, tokenizer: of the corpus.
        metadata: contents of its metadata.json.
        rows: rows in the split. The last one may be short, then filled up with pad tokens; no other row contains any.
        batch_size: rows of a global batch.
        length: tokens of a row.
        steps_per_epoch: batches that cover the split once, rounded up; whole lanes where contiguous and repeated.
        fingerprint: hash of data, tokenizer, split and length: what index i of this split means.

    Raises:
        UserError: not prepared, prepared from other inputs, damaged; a length that does not fit the blocks.
    """

    def __init__(
        self,
        data: Data,
        split: str = "train",
        *,
        seed: int = 0,
        shuffle: bool = True,
        transforms: Sequence[Transform] = (),
    ):
        self.data, self.split, self.seed, self.shuffle = data, split, seed, shuffle
        self.transforms = tuple(transforms)
        prepared = Prepared.open(data.corpus)
        prepared.check_split(split)
        folder, manifest, self.metadata = prepared.folder, prepared.manifest, prepared.metadata
        self.tokenizer = prepared.tokenizer
        self.vocab = self.tokenizer.vocab

        self.length, self.batch_size = data.length, data.batch_size
        self.block = self.metadata["block"]
        tokens = self.metadata["splits"][split]["tokens"]
        self.rows = -(-tokens // self.length) if self.length > 0 else 0
        _check_sizes(self, tokens)
        self.steps_per_epoch = -(-self.rows // self.batch_size)
        if data.order == "contiguous" and shuffle:
            self.steps_per_epoch = self.rows // self.batch_size
        self.unit_rows = max(self.block // self.length, 1)  # rows of a unit
        self.unit_blocks = max(self.length // self.block, 1)  # blocks of a unit
        self._order = Order(self.rows, self.unit_rows, max(data.window // self.unit_blocks, 1), seed)
        self.fingerprint = hashlib.sha256(f"{manifest.fingerprint()} {split} {self.length}".encode()).hexdigest()
        shard_blocks, dtype = self.metadata["splits"][split]["shard_blocks"], self.metadata["dtype"]
        open_blocks = functools.partial(Blocks, folder, split, shard_blocks, self.block, dtype)
        # Rows come back to a block within the window, or from each lane again and again.
        self._blocks = open_blocks(capacity=2 * max(data.window, data.batch_size))
        self._stray_blocks = open_blocks(capacity=64)  # of the stream: does not wash out the rows' blocks
        index = INDEX.format(split=split)
        self._index = folder / index if index in manifest.files else None
        for transform in self.transforms:
            transform.check(self)

    def __reduce__(self):  # a worker process opens the files itself
        options = dict(seed=self.seed, shuffle=self.shuffle, transforms=self.transforms)
        return functools.partial(Pipeline, **options), (self.data, self.split)

    def row_ids(self, start: int, stop: int) -> np.ndarray:
        """int32[stop - start]: rows of the split at these positions, counted over all epochs; -1 behind the end of an
        unshuffled pass."""
        if self.shuffle and self.data.order == "shuffled":
            return self._order.rows_at(start, stop)
        rows = np.arange(start, stop)
        if self.data.order == "contiguous":
            step, lane = np.divmod(rows, self.batch_size)
            rows = lane * self.steps_per_epoch + step % self.steps_per_epoch
        return np.where(rows < self.rows, rows, -1).astype(np.int32)

    def read_rows(self, rows: np.ndarray) -> np.ndarray:
        """int32[b, L]: the tokens of these rows; pad tokens for row -1."""
        tokens = np.full((len(rows), self.length), self.vocab.pad_id, np.int32)
        real = np.flatnonzero(rows >= 0)
        if self.length <= self.block:
            blocks = self._blocks.get((rows[real] // self.unit_rows).tolist())
            for i, block in zip(real, blocks):
                start = rows[i] % self.unit_rows * self.length
                tokens[i] = block[start : start + self.length]
            return tokens
        total, n = len(self._blocks), self.unit_blocks
        wanted = [range(row * n, min((row + 1) * n, total)) for row in rows[real].tolist()]
        blocks = iter(self._blocks.get([block for blocks in wanted for block in blocks]))
        for i, row_blocks in zip(real, wanted):
            for k in range(len(row_blocks)):
                tokens[i, k * self.block : (k + 1) * self.block] = next(blocks)
        return tokens

    @functools.cached_property
    def _documents(self) -> Documents:
        if self._index is None:
            raise UserError(
                f"{self.data.corpus.path} was prepared without an index of its documents, which sentence pairs need: "
                "run `python -m experiments.prepare` with its config again, which adds it and leaves the rest as it is"
            )
        split = self.metadata["splits"][self.split]
        return Documents(self._index, self._stray_blocks, self.block, split["documents"], split["tokens"], self.vocab)

    @property
    def documents(self) -> int:
        """How many there are in the split. Raises UserError where the corpus was prepared without their index."""
        return len(self._documents)

    def document_of(self, position: int) -> int:
        """The number of the document that the token at `position` of the stream belongs to."""
        return self._documents.number(position)

    def document(self, number: int) -> tuple[int, int]:
        """[start, stop) of a document in the stream, its boundary token included."""
        return self._documents.span(number)

    def read(self, start: int, stop: int) -> np.ndarray:
        """int32[stop - start]: tokens of the stream, or fewer at its end."""
        stop = min(stop, self.metadata["splits"][self.split]["tokens"])
        first = start // self.block
        blocks = self._stray_blocks.get(list(range(first, -(-stop // self.block))))
        if not blocks:
            return np.zeros(0, np.int32)
        return np.concatenate(blocks)[start - first * self.block : stop - first * self.block].astype(np.int32)

    def iterate(
        self, start: int = 0, stop: int | None = None, shard: Shard = Shard(), workers: int | None = None
    ) -> Iterator[Batch]:
        """The batches of steps start to stop - 1 (None: for ever, or to the end of the pass), read ahead.

        The same as `batch_at`, in order. `workers` processes read them (None: `data.workers`); 0 means a thread.
        """
        import grain

        if stop is None:
            stop = 2**31 - 1 if self.shuffle else self.steps_per_epoch
        _shard_size(self, shard)  # a mistake shows here, not in another thread
        workers = self.data.workers if workers is None else workers
        steps = grain.MapDataset.range(start, stop).map(_Reader(self, shard))
        if not workers:
            return iter(steps.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)))
        from absl import flags

        if not flags.FLAGS.is_parsed():  # Grain's processes ask for flags, which only absl.app.run parses
            flags.FLAGS.mark_as_parsed()
        batches = steps.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=4)
        return _own_memory(iter(batches.mp_prefetch(options, worker_init_fn=_leave_the_device_alone)))

    def one_pass(self, batches: int | None = None, shard: Shard = Shard()) -> Iterator[Batch]:
        """The first `batches` of an unshuffled split, or all that there are."""
        return self.iterate(0, min(batches or self.steps_per_epoch, self.steps_per_epoch), shard)


def batch_at(pipeline: Pipeline, step: int, shard: Shard = Shard()) -> Batch:
    """The shard's rows of the global batch of a step, a pure function of (the pipeline's seed, step).

    Returns:
        'index' int32[b], the row's number in the split, the same in every epoch (-1: a row that only fills up),
        'tokens' int32[b, L], with b = batch_size / shard.count, and what the transforms add.

    Raises:
        UserError: a batch size that is no multiple of the shards. IndexError: behind the end of an unshuffled pass.
    """
    size = _shard_size(pipeline, shard)
    if step < 0 or not pipeline.shuffle and step >= pipeline.steps_per_epoch:
        raise IndexError(f"step {step}: the pass over {pipeline.split} has {pipeline.steps_per_epoch} steps")
    start = step * pipeline.batch_size + shard.index * size
    rows = pipeline.row_ids(start, start + size)
    batch = {"index": rows, "tokens": pipeline.read_rows(rows)}
    for transform in pipeline.transforms:
        batch = transform(batch, pipeline, pipeline.seed, step if pipeline.shuffle else 0)
    return batch


def _shard_size(pipeline: Pipeline, shard: Shard) -> int:
    size, rest = divmod(pipeline.batch_size, shard.count)
    if rest:
        raise UserError(
            f"batch_size={pipeline.batch_size} is not divisible by the {shard.count} processes that read "
            f"it: use {size * shard.count or shard.count} or {(size + 1) * shard.count}"
        )
    return size


class Order:
    """Epochs as permutations of range(rows): of units of `unit_rows` rows over all, then of the rows within each window
    of `window_units` units. Any part of it is computed at once from the seed.
    """

    def __init__(self, rows: int, unit_rows: int, window_units: int, seed: int):
        self.rows, self.unit_rows, self.seed = rows, unit_rows, seed
        self.units = rows // unit_rows  # whole ones; the rest of the rows are the tail
        self.window_rows = window_units * unit_rows
        self.windows = max(self.units // window_units, 1)
        self._window = functools.lru_cache(maxsize=4)(self._window)

    def rows_at(self, start: int, stop: int) -> np.ndarray:
        """int32[stop - start]: the rows at these positions, counted over all epochs."""
        parts = []
        while start < stop:
            epoch, position = divmod(start, self.rows)
            window = min(position // self.window_rows, self.windows - 1)
            offset = position - window * self.window_rows
            parts.append(self._window(epoch, window)[offset : offset + stop - start])
            start += len(parts[-1])
        return np.concatenate(parts)

    def _window(self, epoch: int, window: int) -> np.ndarray:
        """int32[n]: the rows of one window. The last also takes the tail, and units too few for their own."""
        first = window * self.window_rows
        stop = self.rows if window == self.windows - 1 else first + self.window_rows
        rows = np.arange(first, stop, dtype=np.int32)
        if self.windows > 1:  # else the shuffle within the window is one of all rows
            from grain.experimental import index_shuffle

            seed = _seed(self.seed, epoch)
            whole = min(stop, self.units * self.unit_rows)  # behind it is the tail, which stays where it is
            for start in range(first, whole, self.unit_rows):
                unit = index_shuffle(start // self.unit_rows, self.units - 1, seed, 4)
                rows[start - first : start - first + self.unit_rows] = np.arange(self.unit_rows) + unit * self.unit_rows
        return rows[permutation(len(rows), self.seed, epoch, window)]


class _Reader:
    """`batch_at` as something that travels to a worker process."""

    def __init__(self, pipeline: Pipeline, shard: Shard):
        self.pipeline, self.shard = pipeline, shard

    def __call__(self, step: int) -> Batch:
        return batch_at(self.pipeline, int(step), self.shard)


def _own_memory(batches) -> Iterator[Batch]:
    """Copies of batches that a worker process shares, as their memory is gone with the object that holds it."""
    try:
        for batch in batches:
            yield {name: np.array(array) for name, array in batch.items()}
    finally:
        batches.close()


def _leave_the_device_alone(worker: int, workers: int) -> None:
    """In a worker process, whose Grain imports jax."""
    os.environ["JAX_PLATFORMS"] = "cpu"


def _seed(*numbers: int) -> int:
    """A 32-bit seed, as `index_shuffle` takes it."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=4).digest(), "big")


def permutation(n: int, *seeds: int) -> np.ndarray:
    """A permutation of range(n) that no version of NumPy changes: the order of SplitMix64's outputs (Steele 2014).

    `index_shuffle` is slow for small n (80 us an index at n = 256), as it walks through a domain of 2^16.
    """
    with np.errstate(over="ignore"):
        z = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(_seed(*seeds) << 32)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.argsort(z ^ (z >> np.uint64(31)), kind="stable")


def _check_sizes(pipeline: Pipeline, tokens: int) -> None:
    length, block = pipeline.length, pipeline.block
    if length < 1 or (block % length and length % block):
        good = [n for n in range(1, block + 1) if block % n == 0]
        good += [block * k for k in range(2, max(length, 1) // block + 2)]
        near = sorted(sorted(good, key=lambda n: abs(n - length))[:3])
        raise UserError(
            f"length={length} does not fit blocks of {block} tokens: it has to divide {block} or be a "
            f"multiple of it; near it are {', '.join(map(str, near))}"
        )
    if pipeline.batch_size < 1:
        raise UserError(f"batch_size={pipeline.batch_size}: at least 1")
    if pipeline.data.window < 1:
        raise UserError(f"window={pipeline.data.window}: at least 1 block")
    if tokens == 0:
        raise UserError(f"the split {pipeline.split!r} of {pipeline.data.corpus.path} is empty")
    if pipeline.data.order == "contiguous" and pipeline.shuffle and pipeline.rows < pipeline.batch_size:
        raise UserError(
            f"batch_size={pipeline.batch_size}: in contiguous order every row of a batch reads its own part of the "
            f"split, which has {pipeline.rows} rows of length={pipeline.length}: use {pipeline.rows} or less"
        )
