"""The token stream of a split as it lies on disk: blocks of tokens, a record each, in array_record files."""

import collections
import errno
import functools
import itertools
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ptjax.config import UserError

SHARD = "tokens-{split}.array_record-{index:05d}"


def token_dtype(vocab_size: int) -> np.dtype:
    """What tokens are stored as."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.int32)


def token_features(block: int, dtype: np.dtype):
    """The data set's TFDS features: a block of tokens as bytes, read ten times faster than a list of numbers."""
    import tensorflow_datasets as tfds

    return tfds.features.FeaturesDict(
        {"tokens": tfds.features.Tensor(shape=(block,), dtype=dtype, encoding=tfds.features.Encoding.BYTES)}
    )


def record_header(block: int, dtype: np.dtype) -> bytes:
    """What stands before the tokens in every record: the rest of a tf.train.Example is the same for all blocks."""
    tokens = np.arange(block, dtype=dtype)
    record = token_features(block, dtype).serialize_example({"tokens": tokens})
    assert record.endswith(tokens.tobytes())
    return record[: -tokens.nbytes]


def write_blocks(path: Path, blocks: np.ndarray) -> Path:
    """Writes blocks [n, block] as one file."""
    from array_record.python.array_record_module import ArrayRecordWriter

    need, free = 2 * blocks.nbytes, shutil.disk_usage(path.parent).free
    if free < need:
        raise OSError(errno.ENOSPC, f"{free >> 20} MiB free, the next file takes up to {(need >> 20) + 1} MiB")
    header = record_header(blocks.shape[1], blocks.dtype)
    writer = ArrayRecordWriter(os.fspath(path), "group_size:1,uncompressed")
    for block in blocks:
        writer.write(header + block.tobytes())
    writer.close()
    return path


class Blocks:
    """Blocks of a split by number; the latest `capacity` are kept, as a block is wanted several times.

    Args:
        shard_blocks: blocks in each file; the same number for all but the last.
    """

    def __init__(self, folder: Path, split: str, shard_blocks: list[int], block: int, dtype: np.dtype, capacity: int):
        self._sizes, self._dtype, self._capacity = shard_blocks, np.dtype(dtype), capacity
        self._paths = [os.fspath(folder / SHARD.format(split=split, index=i)) for i in range(len(shard_blocks))]
        self._reader = functools.lru_cache(maxsize=256)(self._open)  # a process may not have many more files open
        self._header = record_header(block, self._dtype)
        self._record_size = len(self._header) + block * self._dtype.itemsize
        self._cache: collections.OrderedDict[int, np.ndarray] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return sum(self._sizes)

    def get(self, numbers: list[int]) -> list[np.ndarray]:
        """The blocks, each uint16 or int32 [block]."""
        with self._lock:
            missing = set(numbers) - self._cache.keys()
            found = dict(self._read(sorted(missing)))
            for n in set(numbers) - missing:
                found[n] = self._cache[n]
                self._cache.move_to_end(n)
            for n in missing:
                self._cache[n] = found[n]
            while len(self._cache) > self._capacity:
                self._cache.popitem(last=False)
        return [found[n] for n in numbers]

    def _read(self, numbers: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        for shard, group in itertools.groupby(numbers, lambda n: n // self._sizes[0]):
            wanted = list(group)
            try:
                records = self._reader(shard).read([n % self._sizes[0] for n in wanted])
            except (RuntimeError, ValueError, IndexError) as error:
                raise UserError(
                    f"{self._paths[shard]} is damaged ({error}): restore it, or prepare the corpus again; "
                    "`python -m experiments.prepare --verify` checks all files"
                ) from error
            for n, record in zip(wanted, records):
                assert len(record) == self._record_size and record.startswith(self._header), self._paths[shard]
                yield n, np.frombuffer(record, self._dtype, offset=len(self._header))

    def _open(self, shard: int):
        from array_record.python.array_record_module import ArrayRecordReader

        # Without read-ahead: this is random access.
        return ArrayRecordReader(
            self._paths[shard], "readahead_buffer_size:0,max_parallelism:0", file_reader_buffer_size=1 << 15
        )
