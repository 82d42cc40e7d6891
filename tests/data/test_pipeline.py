"""Batches: pure in (seed, step), each row once an epoch, the same for any layout of processes and workers."""

import pickle
import subprocess
import sys
from pathlib import Path

import chz
import numpy as np
import pytest
from hypothesis import given, strategies as st

from ptjax.config import UserError
from ptjax.data.pipeline import Data, Order, Pipeline, Shard, batch_at

LENGTHS = (1, 32, 128, 256, 384)  # below, at and above the block of 128 tokens


@pytest.fixture
def data(tiny_corpus):
    return Data(corpus=tiny_corpus, length=32, batch_size=24, window=16)


@pytest.fixture(scope="session")
def streams(tiny_corpus):
    """The token stream of each split, read through TFDS."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(tiny_corpus.path)
    return {
        split: np.concatenate([record["tokens"] for record in builder.as_data_source(split=split)])
        for split in ("train", "validation")
    }


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("shuffle", [True, False])
def test_a_row_is_its_place_in_the_stream(data, streams, length, shuffle):
    pipeline = Pipeline(chz.replace(data, length=length), "validation", shuffle=shuffle)
    stream = streams["validation"]
    stream = np.concatenate([stream, np.full(length, pipeline.vocab.pad_id)])  # the last row may be short
    true_tokens = pipeline.metadata["splits"]["validation"]["tokens"]
    assert pipeline.rows == -(-true_tokens // length)
    for step in range(min(pipeline.steps_per_epoch, 30)):
        batch = batch_at(pipeline, step)
        assert batch["index"].dtype == batch["tokens"].dtype == np.int32 and batch["tokens"].shape == (24, length)
        for index, tokens in zip(*batch.values()):
            pad = np.full(length, pipeline.vocab.pad_id)
            assert np.array_equal(tokens, stream[index * length : (index + 1) * length] if index >= 0 else pad)
            assert index in (-1, pipeline.rows - 1) or pipeline.vocab.pad_id not in tokens


@given(rows=st.integers(1, 3000), unit_rows=st.integers(1, 9), window=st.integers(1, 40), seed=st.integers(0, 2**40))
def test_an_epoch_is_a_permutation(rows, unit_rows, window, seed):
    order = Order(rows, unit_rows, window, seed)
    epochs = order.rows_at(0, 3 * rows).reshape(3, rows)
    assert (np.sort(epochs) == np.arange(rows)).all()
    if rows > 50:
        for other in (epochs[1], np.arange(rows), Order(rows, unit_rows, window, seed + 1).rows_at(0, rows)):
            assert (epochs[0] == other).mean() < 0.3
    start, stop = rows // 2, min(rows // 2 + 7, 3 * rows)
    assert np.array_equal(Order(rows, unit_rows, window, seed).rows_at(start, stop), epochs.ravel()[start:stop])


@pytest.mark.parametrize("unit_rows, window", [(1, 64), (8, 16), (8, 10_000)])
def test_shuffling_is_thorough(unit_rows, window):
    rows = Order(20_003, unit_rows, window, seed=1).rows_at(0, 20_003)
    assert abs(np.corrcoef(rows, np.arange(len(rows)))[0, 1]) < 0.05
    for part in np.array_split(rows, 8):  # any part of an epoch comes from everywhere
        assert np.ptp(part) > 0.95 * len(rows)
    assert np.mean(np.abs(np.diff(rows)) == 1) < 0.02  # neighbours part


def test_the_order_is_a_promise_to_recorded_runs():
    """It may not change with versions of ptjax, Grain or NumPy."""
    order = Order(rows=1003, unit_rows=4, window_units=8, seed=0)
    assert order.rows_at(0, 10).tolist() == [369, 242, 135, 890, 241, 786, 133, 888, 311, 371]
    assert order.rows_at(1003 * 5 + 1000, 1003 * 6 + 5).tolist() == [797, 794, 581, 630, 835, 628, 672, 780]


def test_reading_is_local(data, monkeypatch):
    pipeline = Pipeline(data)
    reads = []
    read = pipeline._blocks._read
    monkeypatch.setattr(pipeline._blocks, "_read", lambda numbers: (reads.extend(numbers), read(numbers))[1])
    for step in range(pipeline.steps_per_epoch - 1):
        batch_at(pipeline, step)
    blocks = len(pipeline._blocks)
    assert 0.95 * blocks < len(set(reads)) <= len(reads) < 1.2 * blocks  # 4 rows a block, yet read about once


def test_batches_are_pure(data):
    pipeline = Pipeline(data, seed=5)
    batches = {step: batch_at(pipeline, step) for step in (0, 1, 85, 86, 400)}  # across epochs of 86 steps
    again = Pipeline(data, seed=5)
    assert all(same(batch_at(again, step), batches[step]) for step in (400, 0, 86, 1, 85))
    assert same(batch_at(pickle.loads(pickle.dumps(pipeline)), 85), batches[85])
    assert not np.array_equal(batches[0]["index"], batches[1]["index"])


@pytest.mark.parametrize("count", [2, 4])
def test_shards_are_contiguous_parts_of_the_global_batch(data, count):
    for shuffle, steps in ((True, (0, 3, 85)), (False, (0, 8))):
        pipeline = Pipeline(data, "validation", shuffle=shuffle)
        for step in steps:
            parts = [batch_at(pipeline, step, Shard(i, count)) for i in range(count)]
            assert same({k: np.concatenate([part[k] for part in parts]) for k in parts[0]}, batch_at(pipeline, step))


def test_a_pass_reads_each_row_once(data):
    pipeline = Pipeline(data, "validation", shuffle=False)
    if pipeline.rows % 24 == 0:  # the text is that of the running Python; the last batch should be short
        pipeline = Pipeline(chz.replace(data, batch_size=23), "validation", shuffle=False)
    batches = list(pipeline.iterate())
    assert len(batches) == pipeline.steps_per_epoch
    index = np.concatenate([batch["index"] for batch in batches])
    assert index[: pipeline.rows].tolist() == list(range(pipeline.rows))
    assert len(index) == len(batches) * pipeline.batch_size and (index[pipeline.rows :] == -1).all()
    assert 0 < len(index) - pipeline.rows < pipeline.batch_size
    for step in (-1, pipeline.steps_per_epoch):
        with pytest.raises(IndexError, match="the pass over validation has"):
            batch_at(pipeline, step)


@pytest.mark.parametrize("workers", [0, 2])
def test_iterate_gives_the_batches_of_batch_at(data, workers):
    pipeline, shard = Pipeline(data, seed=2), Shard(1, 2)
    batches = list(pipeline.iterate(80, 92, shard, workers=workers))
    assert len(batches) == 12
    assert all(same(batch, batch_at(pipeline, step, shard)) for step, batch in enumerate(batches, start=80))
    assert all(type(array) is np.ndarray for batch in batches for array in batch.values())


@pytest.mark.parametrize("length, batch_size", [(32, 24), (32, 7), (128, 13), (256, 3)])
def test_contiguous_lanes_go_on_from_step_to_step(data, length, batch_size):
    data = chz.replace(data, length=length, batch_size=batch_size, order="contiguous")
    pipeline = Pipeline(data)
    n = pipeline.steps_per_epoch
    assert n == pipeline.rows // batch_size > 1
    steps = [batch_at(pipeline, step) for step in range(2 * n + 3)]
    index = np.stack([batch["index"] for batch in steps])
    lanes = np.arange(n * batch_size).reshape(batch_size, n).T  # together all rows but the last few, none twice
    assert np.array_equal(index, np.concatenate([lanes, lanes, lanes[:3]]))
    plain = Pipeline(chz.replace(data, order="shuffled"))
    assert all(np.array_equal(batch["tokens"], plain.read_rows(batch["index"])) for batch in steps[: n + 1])
    again = Pipeline(data, seed=5)
    assert all(same(batch_at(again, step), steps[step]) for step in (2 * n, 0, n - 1, n, 1))
    assert all(same(batch, steps[k]) for k, batch in enumerate(again.iterate(n - 2, n + 2), start=n - 2))


def test_processes_read_their_own_lanes(data):
    data = chz.replace(data, order="contiguous")
    for split, options in (("train", {}), ("validation", {"shuffle": False})):
        pipeline = Pipeline(data, split, **options)
        seen = []
        for i in range(3):
            parts = [batch_at(pipeline, step, Shard(i, 3)) for step in range(pipeline.steps_per_epoch)]
            assert all(
                np.array_equal(p["index"], batch_at(pipeline, s)["index"][8 * i : 8 * i + 8])
                for s, p in enumerate(parts)
            )
            rows = np.concatenate([part["index"] for part in parts])
            seen.append(set(rows[rows >= 0].tolist()))
            assert max(seen[-1]) - min(seen[-1]) == len(seen[-1]) - 1  # a part of the split in one piece
        assert sum(map(len, seen)) == len(set.union(*seen))


@pytest.mark.parametrize("batch_size", [1, 7, 24, 500])
def test_a_contiguous_pass_reads_each_row_once(data, batch_size):
    data = chz.replace(data, order="contiguous", batch_size=batch_size)
    pipeline = Pipeline(data, "validation", shuffle=False)
    index = np.stack([batch["index"] for batch in pipeline.one_pass()])
    assert index.shape == (-(-pipeline.rows // batch_size), batch_size)
    assert sorted(index[index >= 0].tolist()) == list(range(pipeline.rows))
    goes_on = index[1:] == index[:-1] + 1
    assert (goes_on | (index[1:] == -1)).all() and (index[1:][goes_on] > 0).all()
    for batch in pipeline.one_pass(1):
        assert (batch["tokens"][batch["index"] < 0] == pipeline.vocab.pad_id).all()
    with pytest.raises(IndexError):
        batch_at(pipeline, pipeline.steps_per_epoch)


def test_contiguous_reading_is_local(data, monkeypatch):
    pipeline = Pipeline(chz.replace(data, order="contiguous", window=1))
    reads = []
    read = pipeline._blocks._read
    monkeypatch.setattr(pipeline._blocks, "_read", lambda numbers: (reads.extend(numbers), read(numbers))[1])
    for step in range(pipeline.steps_per_epoch):
        batch_at(pipeline, step)
    assert len(reads) < 1.3 * len(pipeline._blocks)  # 4 rows a block; lanes begin inside one


def test_fingerprint_is_of_data_and_length(data, tiny_corpus):
    fingerprint = Pipeline(data).fingerprint
    assert Pipeline(chz.replace(data, batch_size=2, window=3), seed=9).fingerprint == fingerprint
    for other in (Pipeline(data, "validation"), Pipeline(chz.replace(data, length=64))):
        assert other.fingerprint != fingerprint


@pytest.mark.parametrize(
    "length, near", [(100, "32, 64, 128"), (0, "1, 2, 4"), (200, "64, 128, 256"), (400, "256, 384, 512")]
)
def test_lengths_that_do_not_fit(data, length, near):
    with pytest.raises(UserError, match=f"length={length} does not fit blocks of 128 tokens.*{near}"):
        Pipeline(chz.replace(data, length=length))


def test_other_mistakes(data):
    with pytest.raises(UserError, match="batch_size=24 is not divisible by the 5 processes that read it: use 20 or 25"):
        batch_at(Pipeline(data), 0, Shard(0, 5))
    with pytest.raises(UserError, match="batch_size=24 is not divisible"):
        Pipeline(data).iterate(0, 3, Shard(0, 7))
    with pytest.raises(UserError, match="no split 'test', only train, validation"):
        Pipeline(data, "test")
    with pytest.raises(UserError, match=r"batch_size=9000: in contiguous order.*use \d+ or less"):
        Pipeline(chz.replace(data, batch_size=9000, order="contiguous"))
    for field in ("batch_size", "window"):
        with pytest.raises(UserError, match=f"{field}=0"):
            Pipeline(chz.replace(data, **{field: 0}))


def test_a_flipped_bit_in_a_record_is_named(data, tiny_corpus, tmp_path):
    import shutil

    shutil.copytree(tiny_corpus.path, tmp_path / "copy")
    path = tmp_path / "copy" / "tokens-validation.array_record-00000"
    content = bytearray(path.read_bytes())
    first = content.find(b"\x06tokens")
    content[first + 40] ^= 1  # the size stays, so opening goes well
    path.write_bytes(content)
    pipeline = Pipeline(chz.replace(data, corpus=chz.replace(tiny_corpus, path=str(tmp_path / "copy"))), "validation")
    with pytest.raises(UserError, match=f"{path} is damaged.*experiments.prepare --verify"):
        for step in range(pipeline.steps_per_epoch):
            batch_at(pipeline, step)


def test_reading_touches_no_device(tiny_corpus):
    """Importing the data layer loads nothing heavy; reading initialises no backend of jax and needs no TensorFlow."""
    code = (
        "import sys\nimport ptjax.data.pipeline as p\nfrom ptjax.data.prepare import Corpus\n"
        "heavy = {'jax', 'grain', 'tensorflow_datasets', 'sentencepiece', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        f"pipeline = p.Pipeline(p.Data(corpus=Corpus(path={tiny_corpus.path!r}), length=32, window=2))\n"
        "batches = list(pipeline.iterate(0, 3))\nassert len(batches) == 3 and 'grain' in sys.modules\n"
        "assert 'tensorflow' not in sys.modules\n"
        "bridge = sys.modules.get('jax._src.xla_bridge')\nassert not (bridge and bridge._backends)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
