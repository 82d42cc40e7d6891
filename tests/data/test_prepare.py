"""Preparation: the same bytes however it runs, true counts, and a clear word about every folder it cannot use."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import chz
import numpy as np
import pytest

from ptjax.config import UserError, to_json
from ptjax.data import prepare as module
from ptjax.data.blocks import record_header, token_dtype, token_features
from ptjax.data.manifest import Manifest
from ptjax.data.pipeline import Data, Pipeline, batch_at
from ptjax.data.prepare import Corpus, prepare, verify
from ptjax.data.sources import TextFiles
from ptjax.data.tokenizers import SentencePiece, open_tokenizer
from ptjax.data.transforms import SentencePairs

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    """So that many workers have something to do."""
    monkeypatch.setattr(module, "_BATCH", 1000)


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@pytest.fixture(scope="session")
def texts(tmp_path_factory, tiny_corpus):
    """A folder with a few texts, one of them without any newline, and one too long to be encoded at once."""
    folder = tmp_path_factory.mktemp("texts")
    for path in sorted(Path(tiny_corpus.source.glob).parent.glob("*.txt"))[:12]:
        shutil.copy(path, folder)
    everything = "".join(path.read_text() for path in sorted(folder.iterdir()))
    (folder / "long.txt").write_text(everything)
    (folder / "one_line.txt").write_text(everything[:40_000].replace("\n", " "))
    return folder


def corpus_of(texts, folder):
    return Corpus(
        path=str(folder),
        source=TextFiles(glob=str(texts / "*")),
        validation_fraction=0.2,
        tokenizer=SentencePiece(vocab_size=400),
        block=64,
        shard_blocks=100,
    )


@pytest.fixture
def corpus(tmp_path, texts):
    return corpus_of(texts, tmp_path / "prepared")


@pytest.fixture(scope="session")
def whole(tmp_path_factory, texts):
    """A folder in which what `corpus` asks for was prepared at one go."""
    folder = tmp_path_factory.mktemp("whole")
    prepare(corpus_of(texts, folder), workers=1)
    return folder


@pytest.fixture
def prepared(corpus, whole):
    """`corpus`, prepared."""
    shutil.copytree(whole, corpus.path)
    return corpus


def at(corpus, path):
    return chz.replace(corpus, path=str(path))


def stream(corpus, split):
    """The tokens of a split, read through TFDS."""
    import tensorflow_datasets as tfds

    records = tfds.builder_from_directory(corpus.path).as_data_source(split=split)
    return np.concatenate([record["tokens"] for record in records])


def test_any_number_of_workers_gives_the_same_bytes(corpus, whole):
    for workers in (2, 5):
        prepare(at(corpus, f"{corpus.path}{workers}"), workers=workers)
        assert len(contents(whole)) > 8 and contents(f"{corpus.path}{workers}") == contents(whole)


KILLED = """
import os, signal, sys
from ptjax.config import from_json
from ptjax.data import prepare as module
from ptjax.data.blocks import record_header, token_dtype, token_features
from ptjax.data.manifest import Manifest

module._BATCH = int(sys.argv[3])
commit, left = Manifest.commit, int(sys.argv[2])

def commit_or_die(self, folder, partial=None):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    commit(self, folder, partial)

Manifest.commit = commit_or_die
module.prepare(from_json(sys.argv[1]))
"""


# After no commit, the tokenizer, two shards, nearly all; many batches a shard, many shards a batch.
@pytest.mark.parametrize("commits, batch", [(0, 1000), (1, 1000), (3, 1000), (3, 1 << 20), (8, 1000)])
def test_goes_on_after_a_kill(corpus, whole, monkeypatch, commits, batch):
    monkeypatch.setattr(module, "_BATCH", batch)
    killed = subprocess.run([sys.executable, "-c", KILLED, to_json(corpus), str(commits), str(batch)], cwd=ROOT)
    assert killed.returncode == -9
    if commits:
        with pytest.raises(UserError, match="prepared only in part.*experiments.prepare"):
            Pipeline(Data(corpus=corpus, length=32))
    kept = {path: path.stat().st_mtime_ns for path in Path(corpus.path).iterdir() if path.suffix != ".partial"}
    kept = {path: time for path, time in kept.items() if path.name.startswith("tok")}
    assert len(kept) == commits
    prepare(corpus)
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert contents(corpus.path) == contents(whole)


@pytest.mark.parametrize("boundary", ["end", "begin"])
def test_stream_and_counts_are_true(corpus, texts, boundary, monkeypatch):
    monkeypatch.setattr(module, "_SEGMENT", 5000)
    corpus = chz.replace(corpus, boundary=boundary)
    metadata = prepare(corpus).metadata
    assert metadata == json.loads((Path(corpus.path) / "metadata.json").read_text())
    tokenizer = open_tokenizer(corpus.path, boundary)
    assert metadata["boundary_id"] == tokenizer.vocab.boundary_id
    documents = list(corpus.source.read())
    held_out = [document.text for document in documents if document.held_out(0.2)]
    training = [document.text for document in documents if not document.held_out(0.2)]
    assert held_out and training
    for split, split_texts in (("train", training), ("validation", held_out)):
        counts = metadata["splits"][split]
        tokens, padding = np.split(stream(corpus, split), [counts["tokens"]])
        assert len(padding) < 64 and (padding == tokenizer.vocab.pad_id).all() and tokenizer.vocab.pad_id not in tokens
        marks = np.flatnonzero(tokens == tokenizer.vocab.boundary_id)
        assert marks[-1] == len(tokens) - 1 if boundary == "end" else marks[0] == 0
        pieces = np.split(tokens, marks + 1)[:-1] if boundary == "end" else np.split(tokens, marks)[1:]
        assert [tokenizer.decode(piece) for piece in pieces] == split_texts
        # Cutting a long text changes its tokens only where segmentations are equally likely.
        whole = sum(len(tokenizer.encode(text)) + 1 for text in split_texts)
        assert abs(len(tokens) - whole) < 0.001 * whole
        assert counts["documents"] == len(split_texts) and counts["unknown"] == 0
        assert counts["bytes"] == sum(len(text.encode()) for text in split_texts)
        assert counts["bytes"] == tokenizer.vocab.piece_bytes[tokens].sum()
        words = sum(len(text.split()) for text in split_texts)
        assert abs(counts["words"] - words) <= 0.01 * words  # a segment that ends inside a word counts it twice


def test_a_corpus_without_an_index_of_documents(prepared, whole):
    """As they were prepared before there was one: rows are read, sentence pairs ask to prepare, which adds it."""
    folder, names = Path(prepared.path), [f"documents-{split}.npy" for split in ("train", "validation")]
    data, pairs = Data(corpus=prepared, length=32), [SentencePairs("next")]
    manifest = Manifest.load(folder)
    fingerprint = Pipeline(data).fingerprint
    for name in names:
        (folder / name).unlink()
        del manifest.files[name]
    manifest.commit(folder)
    pipeline = Pipeline(data, transforms=[SentencePairs("order")])
    assert pipeline.fingerprint == fingerprint and batch_at(pipeline, 0)["order_weight"].sum() > 0
    with pytest.raises(UserError, match="without an index of its documents.*experiments.prepare"):
        Pipeline(data, transforms=pairs)
    prepare(prepared)
    assert contents(folder) == contents(whole)
    assert batch_at(Pipeline(data, transforms=pairs), 0)["next_weight"].sum() > 0


def test_unknown_tokens_are_counted(corpus, texts, tmp_path):
    shutil.copytree(texts, tmp_path / "texts")
    (tmp_path / "texts" / "greek.txt").write_text("λόγος " * 20)
    tokenizer = SentencePiece(vocab_size=400, byte_fallback=False, character_coverage=0.98)
    source = TextFiles(glob=str(tmp_path / "texts" / "*"))
    metadata = prepare(chz.replace(corpus, source=source, tokenizer=tokenizer, validation_fraction=0.0)).metadata
    assert list(metadata["splits"]) == ["train"]
    assert (stream(corpus, "train") == 1).sum() == metadata["splits"]["train"]["unknown"] > 0


def test_validation_source(corpus, texts, tmp_path):
    (tmp_path / "held.txt").write_text("Held out text. " * 50)
    corpus = chz.replace(corpus, validation=TextFiles(glob=str(tmp_path / "held.txt")))
    metadata = prepare(corpus).metadata
    assert metadata["splits"]["validation"]["documents"] == 1
    assert metadata["splits"]["train"]["documents"] == len(list(texts.iterdir()))


def test_tokens_as_bytes_through_tfds():
    assert token_dtype(1 << 16) == np.uint16 and token_dtype((1 << 16) + 1) == np.int32
    for dtype in (np.dtype(np.uint16), np.dtype(np.int32)):
        tokens = np.arange(128, dtype=dtype)
        record = token_features(128, dtype).serialize_example({"tokens": tokens})
        assert record_header(128, dtype) + tokens.tobytes() == record


def test_tokenizer_sees_a_spread_sample(corpus, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 1000)
    seen = []
    monkeypatch.setattr(SentencePiece, "train", lambda self, texts: seen.extend(texts) or b"")
    with pytest.raises(UserError):  # an empty model
        prepare(chz.replace(corpus, tokenizer=SentencePiece(sample_bytes=20_000)))
    training = "".join(d.text for d in corpus.source.read() if not d.held_out(0.2))
    assert 20_000 <= sum(map(len, seen)) <= 21_000
    places = [training.find(chunk) / len(training) for chunk in seen]
    assert min(places) >= 0 and min(places) < 0.2 and max(places) > 0.6


def test_a_second_run_does_nothing(prepared):
    before = {path: path.stat().st_mtime_ns for path in Path(prepared.path).iterdir()}
    again = prepare(prepared)
    assert again.metadata["splits"]["train"]["documents"] > 0 and not again.seconds and not again.encoded_bytes
    assert {path: path.stat().st_mtime_ns for path in Path(prepared.path).iterdir()} == before


def test_refuses_a_folder_prepared_from_other_inputs(prepared):
    other = chz.replace(prepared, block=128, tokenizer=SentencePiece(vocab_size=500))
    with pytest.raises(UserError) as error:
        prepare(other)
    for line in ("tokenizer.vocab_size: 400 there, 500 asked for", "block: 64 there, 128 asked for"):
        assert line in str(error.value)
    assert "boundary" not in str(error.value)
    with pytest.raises(UserError, match="block: 64 there, 128 asked for"):
        Pipeline(Data(corpus=other, length=32))
    Pipeline(Data(corpus=Corpus(path=prepared.path), length=32))  # whatever it was made from


def test_refuses_a_folder_prepared_from_other_text(corpus, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"Paragraph {i} of the text." for i in range(300)))
    corpus = chz.replace(
        corpus, source=TextFiles(glob=str(text), documents="blank_line"), tokenizer=SentencePiece(vocab_size=290)
    )
    prepare(corpus)
    text.write_text(text.read_text() + "!")
    with pytest.raises(UserError, match="was prepared from other text"):
        prepare(corpus)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: os.truncate(path, path.stat().st_size // 2), "bytes, not"),
    ],
)
@pytest.mark.parametrize("name", ["tokens-train.array_record-00001", "tokenizer.model", "features.json"])
def test_missing_and_truncated_files_are_named(prepared, damage, message, name):
    path = Path(prepared.path) / name
    damage(path)
    for open_it in (lambda: Pipeline(Data(corpus=prepared, length=32)), lambda: prepare(prepared)):
        with pytest.raises(UserError, match=message) as error:
            open_it()
        assert str(path) in str(error.value) and "prepare it again" in str(error.value)


def test_a_flipped_bit_is_found_by_verify(prepared):
    assert verify(prepared.path) == len(contents(prepared.path)) - 1  # all but the manifest itself
    path = Path(prepared.path) / "tokens-train.array_record-00001"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=f"{path} is damaged"):
        verify(prepared.path)


def test_tokenizer_of_other_data(prepared):
    model = Path(prepared.path) / "tokenizer.model"
    size = model.stat().st_size
    data = bytearray(model.read_bytes())
    data[data.find(b"the") + 1] ^= 1  # the same size, another piece
    model.write_bytes(data)
    assert model.stat().st_size == size
    with pytest.raises(UserError, match="is not the tokenizer that the data set"):
        Pipeline(Data(corpus=prepared, length=32))


def test_damaged_manifest(prepared):
    (Path(prepared.path) / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="manifest.json is damaged"):
        prepare(prepared)


def test_not_prepared(corpus):
    with pytest.raises(UserError, match="holds no prepared corpus.*experiments.prepare"):
        Pipeline(Data(corpus=corpus))
    with pytest.raises(UserError, match="corpus.source is None"):
        prepare(Corpus(path=corpus.path))


def test_nothing_to_read(corpus, tmp_path):
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(UserError, match="no text in TextFiles"):
        prepare(chz.replace(corpus, source=TextFiles(glob=str(tmp_path / "empty.txt"))))
    (tmp_path / "single.txt").write_text("one document " * 100)
    with pytest.raises(
        UserError, match=r"leaves the validation split without a document.*\(data.corpus.\)source.documents=blank_line"
    ):
        prepare(chz.replace(corpus, source=TextFiles(glob=str(tmp_path / "single.txt")), validation_fraction=1e-6))


@pytest.mark.parametrize(
    "field, value", [("validation_fraction", 1.0), ("validation_fraction", -0.1), ("block", 0), ("shard_blocks", 0)]
)
def test_impossible_values(corpus, field, value):
    with pytest.raises(UserError, match=f"{field}={value} has to be"):
        chz.replace(corpus, **{field: value})


def test_no_space(corpus, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(UserError, match="no space left for .*goes on where this one stopped"):
        prepare(corpus)
    monkeypatch.undo()
    prepare(corpus)


def test_no_permission(corpus, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write .*Not a directory"):
        prepare(at(corpus, tmp_path / "file" / "below"))


def test_the_command(corpus, tmp_path):
    config = tmp_path / "config.py"
    config.write_text(
        "from ptjax.data.prepare import *\nfrom ptjax.data.sources import *\n"
        "from ptjax.data.tokenizers import *\n"
        f"def get_config():\n    return {corpus!r}\n"
    )
    command = [sys.executable, "-m", "experiments.prepare", f"--config={config}", f"--workdir={tmp_path / 'there'}"]

    def run(*more):
        return subprocess.run([*command, *more], capture_output=True, text=True, cwd=ROOT)

    done = run("tokenizer.vocab_size=410")
    assert done.returncode == 0, done.stderr
    assert "Prepared in" in done.stdout and "tokens a word" in done.stdout and "vocab_size" in done.stdout
    assert Manifest.load(tmp_path / "there").complete
    refused = run("tokenizer.vocab_size=420")
    assert refused.returncode == 2 and "tokenizer.vocab_size: 410 there, 420 asked for" in refused.stderr
    assert "Traceback" not in refused.stderr
