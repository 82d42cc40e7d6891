"""Every source: what it yields, and what it says about input that it cannot read."""

import gzip
import json
import sys
import types

import numpy as np
import pytest

from ptjax.config import UserError, from_json, override, to_json
from ptjax.data.prepare import Corpus
from ptjax.data.sources import Document, HuggingFace, JsonLines, Mixture, Parquet, Stdlib, TextFiles, Tfds


def texts(source):
    return [document.text for document in source.read()]


def error_of(source):
    with pytest.raises(UserError) as error:
        texts(source)
    return str(error.value)


def test_stdlib():
    documents = list(Stdlib().read())
    assert 8e6 < sum(len(document.text) for document in documents) < 14e6
    groups = {document.group for document in documents}
    assert {"asyncio", "json", "argparse", "pydoc_data.while"} <= groups
    origins = " ".join(document.origin for document in documents)
    assert not any(f"/{name}/" in origins for name in ("test", "tests", "idlelib", "lib2to3", "site-packages"))
    assert [document.origin for document in Stdlib().read()] == [document.origin for document in documents]
    held_out = [document for document in documents if document.held_out(0.05)]
    share = sum(len(document.text) for document in held_out) / sum(len(document.text) for document in documents)
    assert 0.01 < share < 0.1
    assert not {d.group for d in held_out} & {d.group for d in documents if not d.held_out(0.05)}


def test_held_out_is_a_share_and_nested():
    documents = [Document(f"text {i}", "x") for i in range(2000)]
    small, large = ({d.text for d in documents if d.held_out(f)} for f in (0.05, 0.2))
    assert 60 < len(small) < 140 and 330 < len(large) < 470 and small < large


def test_text_files(tmp_path):
    (tmp_path / "b.txt").write_bytes("\ufeffzwei\r\n\n\nd\u00e9ux\nlines\n".encode())
    (tmp_path / "empty.txt").write_bytes(b"")
    with gzip.open(tmp_path / "a.txt.gz", "wb") as file:
        file.write(b"\n one\n")
    pattern = str(tmp_path / "*.txt*")
    assert texts(TextFiles(glob=pattern)) == ["\n one\n", "zwei\r\n\n\nd\u00e9ux\nlines\n"]
    paragraphs = list(TextFiles(glob=pattern, documents="blank_line").read())
    assert [d.text for d in paragraphs] == [" one\n", "zwei\r\n", "d\u00e9ux\nlines\n"]
    assert [d.origin.removeprefix(str(tmp_path)) for d in paragraphs] == ["/a.txt.gz:2", "/b.txt:1", "/b.txt:4"]


def test_home_and_nested_globs(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x" / "y").mkdir(parents=True)
    (tmp_path / "x" / "y" / "z.txt").write_text("deep")
    assert texts(TextFiles(glob="~/**/*.txt")) == ["deep"]


@pytest.mark.parametrize("documents", ["file", "blank_line"])
def test_not_utf8_names_file_and_line(tmp_path, documents):
    (tmp_path / "latin.txt").write_bytes(b"fine\nfine\ncaf\xe9\n")
    message = error_of(TextFiles(glob=str(tmp_path / "*"), documents=documents))
    assert f"{tmp_path}/latin.txt:3: not UTF-8 (byte 0xe9)" in message and "iconv" in message


def test_no_match():
    assert "no file matches source.glob='nowhere/*.txt'" in error_of(TextFiles(glob="nowhere/*.txt"))


def test_json_lines(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    lines = "\n".join(json.dumps({"text": text, "n": 1}) for text in ("eins", "", "zwei\n\u2028drei")) + "\n\n"
    (tmp_path / "a.jsonl").write_text(lines)
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write(lines)
    frames = [zstandard.compress(part.encode()) for part in (lines[:20], lines[20:])]
    (tmp_path / "c.jsonl.zst").write_bytes(b"".join(frames))
    documents = list(JsonLines(glob=str(tmp_path / "*")).read())
    assert [d.text for d in documents] == ["eins", "zwei\n\u2028drei"] * 3
    assert documents[1].origin == f"{tmp_path}/a.jsonl:3"


@pytest.mark.parametrize(
    "line, message",
    [
        ('{"txt": "x", "id": 1}', "a.jsonl:2: no field 'text'; source.field can be one of id, txt"),
        ('{"text": 3}', "a.jsonl:2: field 'text' holds int, not text"),
        ('{"text": null}', "a.jsonl:2: field 'text' holds NoneType, not text"),
        ('{"text": ', "a.jsonl:2: not a JSON object"),
        ('["text"]', "a.jsonl:2: a JSON object is wanted, this is a list"),
    ],
)
def test_bad_json_lines(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n' + line + "\n")
    assert message in error_of(JsonLines(glob=str(tmp_path / "*")))


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_damaged_compression(tmp_path, suffix):
    lines = b'{"text": "fine"}\n' * 50_000
    compressed = gzip.compress(lines) if suffix == ".gz" else pytest.importorskip("zstandard").compress(lines)
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(compressed[: len(compressed) // 2])
    assert f"{path} is damaged" in error_of(JsonLines(glob=str(path)))
    assert f"{path} is damaged" in error_of(TextFiles(glob=str(path)))
    path.write_bytes(b"plain text")
    assert f"{path} is damaged" in error_of(JsonLines(glob=str(path)))


def test_parquet(tmp_path):
    parquet, table = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow").table
    path = tmp_path / "a.parquet"
    parquet.write_table(table({"body": ["a", "", "b"], "n": [1, 2, 3]}), path)
    documents = list(Parquet(glob=str(path), field="body").read())
    assert [d.text for d in documents] == ["a", "b"] and documents[1].origin == f"{path}: row 3"
    assert "no column 'text'; source.field can be one of body, n" in error_of(Parquet(glob=str(path)))
    assert f"{path}: row 1: field 'n' holds int" in error_of(Parquet(glob=str(path), field="n"))
    path.write_bytes(path.read_bytes()[:-20])
    assert f"{path} is no readable Parquet file" in error_of(Parquet(glob=str(path), field="body"))


def write_tfds(folder, texts, file_format):
    """A data set `reviews` of TFDS in `folder`, as `tfds build` leaves it."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter

    version = folder / "reviews" / "1.0.0"
    version.mkdir(parents=True)
    writer = ArrayRecordWriter(str(version / f"reviews-train.{file_format}-00000-of-00001"), "group_size:1")
    features = tfds.features.FeaturesDict({"text": tfds.features.Text(), "label": np.int64})
    template = tfds.core.ShardedFileTemplate(data_dir=version, dataset_name="reviews", filetype_suffix=file_format)
    splits = [tfds.core.SplitInfo(name="train", shard_lengths=[len(texts)], num_bytes=1, filename_template=template)]
    tfds.folder_dataset.write_metadata(
        data_dir=version, features=features, split_infos=splits, filename_template=template, check_data=False
    )
    for text in texts:
        writer.write(features.serialize_example({"text": text, "label": 1}))
    writer.close()


def test_tfds(tmp_path):
    write_tfds(tmp_path, ["eins", "d\u00e9ux", "drei"], "array_record")
    source = Tfds(name="reviews", data_dir=str(tmp_path))
    assert texts(source) == ["eins", "d\u00e9ux", "drei"]
    assert "tensorflow" not in sys.modules
    assert texts(Tfds(name="reviews", data_dir=str(tmp_path), split="train[1:]")) == ["d\u00e9ux", "drei"]
    assert "no feature 'body'; source.field can be one of label, text" in error_of(
        Tfds(name="reviews", data_dir=str(tmp_path), field="body")
    )
    assert "source.split='test'" in error_of(Tfds(name="reviews", data_dir=str(tmp_path), split="test"))
    assert "field 'label' holds" in error_of(Tfds(name="reviews", data_dir=str(tmp_path), field="label"))


def test_tfds_that_only_tensorflow_reads(tmp_path):
    write_tfds(tmp_path, ["eins"], "tfrecord")
    message = error_of(Tfds(name="reviews", data_dir=str(tmp_path)))
    assert "tfrecord files, which only TensorFlow reads" in message
    assert f"tfds.builder('reviews', data_dir='{tmp_path}', file_format='array_record').download_and_" in message


def test_tfds_that_is_not_there(tmp_path):
    absent = Tfds(name="no_such_set", data_dir=str(tmp_path))
    assert "file_format='array_record').download_and_prepare()" in error_of(absent)
    assert "is not prepared in" in error_of(Tfds(name="ag_news_subset", data_dir=str(tmp_path)))


class Rows(list):
    column_names = ["text", "label"]


def test_hugging_face(monkeypatch):
    asked = []

    def load_dataset(name, subset, split):
        asked.append((name, subset, split))
        if split == "nope":
            raise ValueError("Unknown split \"nope\". Should be one of ['train'].")
        return Rows([{"text": "eins", "label": 0}, {"text": "zwei", "label": 1}])

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    assert texts(HuggingFace(name="a/b", subset="c", split="train[:2]")) == ["eins", "zwei"]
    assert asked == [("a/b", "c", "train[:2]")]
    assert "no column 'body'; source.field can be one of label, text" in error_of(HuggingFace(name="a/b", field="body"))
    assert "Unknown split" in error_of(HuggingFace(name="a/b", split="nope"))


@pytest.mark.parametrize(
    "module, source, command",
    [
        ("datasets", HuggingFace(name="a"), "pip install 'ptjax[hf]'"),
        ("pyarrow.parquet", Parquet(glob="a.parquet"), "pip install 'ptjax[hf]'"),
    ],
)
def test_missing_package(monkeypatch, module, source, command):
    monkeypatch.setitem(sys.modules, module, None)
    assert command in error_of(source)


def test_missing_zstandard(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    (tmp_path / "a.jsonl.zst").write_bytes(b"x")
    assert "pip install 'ptjax[zstd]'" in error_of(JsonLines(glob=str(tmp_path / "*")))


def test_mixture_follows_the_weights(tmp_path):
    for name, documents in (("a", 400), ("b", 40), ("c", 1000)):
        size = 10 if name != "b" else 100  # b's documents are ten times as long
        line = json.dumps({"text": name * size}) + "\n"
        (tmp_path / f"{name}.jsonl").write_text(line * documents)
    sources = tuple(JsonLines(glob=str(tmp_path / f"{name}.jsonl")) for name in "abc")
    mixture = Mixture(sources=sources, weights=(2.0, 1.0, 1.0))
    drawn = texts(mixture)
    assert drawn == texts(mixture)
    for part in (drawn[:150], drawn):
        letters = "".join(part)
        shares = [letters.count(name) / len(letters) for name in "abc"]
        assert np.allclose(shares, [0.5, 0.25, 0.25], atol=0.05)
    assert drawn.count("a" * 10) == 400  # ends when the first source is used up, no document twice


def test_mixture_wants_a_weight_each():
    for weights in ((1.0,), (1.0, 0.0), (1.0, -1.0)):
        with pytest.raises(UserError, match="one positive weight for each source"):
            Mixture(sources=(Stdlib(), Stdlib()), weights=weights)


def test_sources_from_the_command_line():
    corpus = override(
        Corpus(path="x", source=Stdlib()),
        ["source=Mixture", "source.sources=JsonLines,Stdlib", "source.sources.0.glob=a", "source.weights=3,1"],
    )
    assert corpus.source == Mixture(sources=(JsonLines(glob="a"), Stdlib()), weights=(3.0, 1.0))
    assert from_json(to_json(corpus)) == corpus
