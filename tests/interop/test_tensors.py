"""Files of safetensors: what they hold comes back bit by bit; one that lies is refused by name before it is read."""

import json
import pickle
import re
import struct
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from ptjax.config import UserError
from ptjax.interop.tensors import INDEX, WEIGHTS, Tensors, Writer, new_folder, read_json

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def some(dtype="float32"):
    rng = np.random.default_rng(0)
    shapes = {"a.weight": (5, 3), "a.bias": (5,), "b": (2, 3, 4), "scale": (), "none": (0, 3)}
    return {name: rng.normal(size=shape).astype(DTYPES[dtype]) for name, shape in shapes.items()}


def written(folder, tensors, dtype="float32", order=None, **limits):
    writer = Writer(folder, {name: value.shape for name, value in tensors.items()}, dtype, **limits)
    for name in order or tensors:
        writer.write(name, tensors[name])
    writer.close()
    return writer


def raw(header: dict | bytes, data: bytes = b"", size: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def entry(shape=(2,), begin=0, end=8, dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def assert_same(tensors: Tensors, expected):
    assert tensors.keys() == expected.keys()
    for name, value in expected.items():
        found = tensors.read(name)
        assert found.dtype == value.dtype and found.shape == value.shape and not (found.size and found.flags.writeable)
        np.testing.assert_array_equal(found, value)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_the_library_writes_is_read(dtype, tmp_path):
    save_file(some(dtype), tmp_path / WEIGHTS)
    assert_same(Tensors(tmp_path), some(dtype))
    assert_same(Tensors(tmp_path / WEIGHTS), some(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_file_is_the_library_s_byte_by_byte_in_whatever_order_it_is_written(dtype, tmp_path):
    tensors = some(dtype)
    writer = written(tmp_path, tensors, dtype, order=sorted(tensors, reverse=True))
    save_file(tensors, tmp_path / "theirs", metadata={"format": "pt"})
    assert (tmp_path / WEIGHTS).read_bytes() == (tmp_path / "theirs").read_bytes()
    assert writer.files == [WEIGHTS] and writer.bytes == sum(value.nbytes for value in tensors.values())


def test_shards_are_bounded_and_indexed_as_transformers_does(tmp_path):
    tensors = {f"t{i:02d}": np.full(10 + i, i, np.float32) for i in range(12)}
    writer = written(tmp_path, tensors, max_shard_bytes=120)
    sizes = [sum(value.nbytes for value in load_file(tmp_path / file).values()) for file in writer.files]
    assert len(sizes) > 3 and max(sizes) <= 120 and min(sizes) > 0
    assert writer.files[:2] == [f"model-0000{i}-of-{len(sizes):05d}.safetensors" for i in (1, 2)]
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["metadata"] == {"total_size": sum(sizes)}
    assert all(name in load_file(tmp_path / file) for name, file in index["weight_map"].items())
    assert_same(Tensors(tmp_path), tensors)


def test_a_tensor_above_the_bound_has_a_shard_of_its_own(tmp_path):
    tensors = {"a": np.ones(2, np.float32), "b": np.ones(99, np.float32), "c": np.ones(2, np.float32)}
    written(tmp_path, tensors, max_shard_bytes=40)
    assert len(set(json.loads((tmp_path / INDEX).read_text())["weight_map"].values())) == 3
    assert_same(Tensors(tmp_path), tensors)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_numbers_are_rounded_to_the_nearest(dtype, tmp_path):
    values = {"x": np.random.default_rng(1).normal(size=1000).astype(np.float32)}
    written(tmp_path, values, dtype)
    np.testing.assert_array_equal(Tensors(tmp_path).read("x"), values["x"].astype(DTYPES[dtype]))


def test_no_finite_number_becomes_infinite(tmp_path):
    with pytest.raises(UserError, match="x has a value of 7e.04, too large for float16: use bfloat16"):
        written(tmp_path, {"x": np.array([1, -7e4], np.float32)}, "float16")
    infinite = {"x": np.array([np.inf, np.nan, -1], np.float32)}
    written(tmp_path, infinite, "float16")  # such as they were
    np.testing.assert_array_equal(Tensors(tmp_path).read("x"), infinite["x"].astype(np.float16))


def test_no_disk_for_the_model_is_said_before_it_is_written(tmp_path):
    with pytest.raises(UserError, match="MiB free, and the model takes"):
        Writer(tmp_path, {"x": (1 << 20, 1 << 24)})
    assert not any(tmp_path.iterdir())


LIES = {
    "cut off": raw({"a": entry()}, b"\0" * 4),
    "longer than it says": raw({"a": entry()}, b"\0" * 12),
    "one over the other": raw({"a": entry(), "b": entry()}, b"\0" * 8),
    "half over the other": raw({"a": entry(), "b": entry(begin=4, end=12)}, b"\0" * 12),
    "a hole": raw({"a": entry(), "b": entry(begin=12, end=20)}, b"\0" * 20),
    "beyond the data": raw({"a": entry(begin=80, end=88)}, b"\0" * 8),
    "a negative offset": raw({"a": entry(begin=-8, end=0)}, b"\0" * 8),
    "a negative shape": raw({"a": entry(shape=(-2,))}, b"\0" * 8),
    "another shape": raw({"a": entry(shape=(3,))}, b"\0" * 8),
    "a shape that overflows": raw({"a": entry(shape=(2**62, 2**62))}, b"\0" * 8),
    "an unknown type": raw({"a": entry(dtype="F31")}, b"\0" * 8),
    "no JSON": raw(b"{'a': 1}"),
    "a list": raw(b"[]"),
    "nested deep": raw(b"[" * 100_000 + b"]" * 100_000),
    "a header longer than the file": raw({"a": entry()}, b"\0" * 8, size=4096),
    "a huge header": raw({}, size=2**63),
    "a name twice": raw(b'{"a":%s,"a":%s}' % ((json.dumps(entry()).encode(),) * 2), b"\0" * 8),
    "a name twice, by an escape": raw(b'{"a":%s,"\\u0061":%s}' % ((json.dumps(entry()).encode(),) * 2), b"\0" * 8),
    "short": b"abc",
    "empty": b"",
    "a pickle": pickle.dumps({"a": 1}),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_file_that_lies_is_refused_by_name(lie, tmp_path):
    (tmp_path / WEIGHTS).write_bytes(LIES[lie])
    with pytest.raises(UserError, match=re.escape(str(tmp_path / WEIGHTS))):
        Tensors(tmp_path)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_file_is_refused_or_read_within_its_bounds(tmp_path_factory, data):
    """Wherever bytes of the header change, or the file ends: never another exception, never memory that is not its."""
    folder = tmp_path_factory.mktemp("damaged")
    save_file(some(), folder / WEIGHTS)
    whole = bytearray((folder / WEIGHTS).read_bytes())
    header = 8 + int.from_bytes(whole[:8], "little")
    for _ in range(data.draw(st.integers(0, 4))):
        whole[data.draw(st.integers(0, header - 1))] = data.draw(st.integers(0, 255))
    (folder / WEIGHTS).write_bytes(whole[: data.draw(st.integers(0, len(whole)) | st.just(len(whole)))])
    try:
        tensors = Tensors(folder)
    except UserError as error:
        assert str(folder) in str(error)
        return
    for name in tensors:
        try:
            tensors.check_floats([name])
        except UserError:
            continue
        assert tensors.read(name).tobytes() is not None


def test_other_types_are_known_and_not_read_as_weights(tmp_path):
    save_file({"ids": np.arange(3), "x": np.ones(2), "ok": np.ones(2, np.float32)}, tmp_path / WEIGHTS)
    tensors = Tensors(tmp_path)
    assert tensors["ids"].shape == (3,)
    tensors.check_floats(["ok"])
    with pytest.raises(UserError, match="(?s)weights are F32, F16, BF16.*ids is I64.*x is F64"):
        tensors.check_floats(tensors)


def test_reading_maps_and_keeps_nothing(tmp_path):
    save_file({"x": np.zeros(1 << 22, np.float32)}, tmp_path / WEIGHTS)
    tensors = Tensors(tmp_path)
    tracemalloc.start()
    assert tensors.read("x")[-1] == 0
    assert tracemalloc.get_traced_memory()[1] < 1 << 18
    tracemalloc.stop()


# Folders.


@pytest.fixture
def shards(tmp_path):
    """A model in three files, in a folder of its own."""
    folder = tmp_path / "model"
    folder.mkdir()
    written(folder, {name: np.ones(4, np.float32) for name in "abc"}, max_shard_bytes=16)
    return folder


def change(shards, **files):
    """The index, with names put into other files; None takes one out."""
    index = json.loads((shards / INDEX).read_text())
    index["weight_map"] |= files
    index["weight_map"] = {name: file for name, file in index["weight_map"].items() if file is not None}
    (shards / INDEX).write_text(json.dumps(index))


def test_a_missing_shard(shards):
    (shards / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(UserError, match=r"(?s)lacks 1 of the 3 files of its index:.*model-00002-of-00003"):
        Tensors(shards)


@pytest.mark.parametrize(
    "files, said",
    [
        ({"a": "model-00002-of-00003.safetensors"}, "(?s)model-00002.*a: in the index alone"),
        ({"d": "model-00001-of-00003.safetensors"}, "(?s)model-00001.*d: in the index alone"),
    ],
)
def test_an_index_that_names_a_tensor_where_it_is_not(files, said, shards):
    change(shards, **files)
    with pytest.raises(UserError, match=said):
        Tensors(shards)


def test_a_tensor_in_two_shards(shards):
    save_file({k: np.ones(4, np.float32) for k in "bc"}, shards / "model-00003-of-00003.safetensors")
    with pytest.raises(UserError, match="(?s)model-00003.*b: not in the index, or in it for another file"):
        Tensors(shards)


@pytest.mark.parametrize(
    "file", ["../secret.safetensors", "/etc/secret.safetensors", "..", "a/b.safetensors", "x.bin", "c:x.safetensors"]
)
def test_an_index_that_leads_out_of_the_folder(file, shards):
    save_file({"a": np.ones(4, np.float32)}, shards.parent / "secret.safetensors")
    change(shards, a=file)
    with pytest.raises(UserError, match=f"puts a into {re.escape(repr(file))}, which is no file of safetensors in"):
        Tensors(shards)


@pytest.mark.parametrize("text", ["", "[]", '{"weight_map": []}', '{"weight_map": {"a": 1}}', "[" * 100_000, "\xff"])
def test_an_index_that_is_none(text, shards):
    (shards / INDEX).write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=re.escape(str(shards / INDEX))):
        Tensors(shards)


def test_a_huge_json_is_not_read(tmp_path):
    with open(tmp_path / "config.json", "wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(UserError, match="larger than 100 MiB"):
        read_json(tmp_path / "config.json")


def test_a_folder_is_no_json(tmp_path):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(UserError, match="Cannot read .*config.json"):
        read_json(tmp_path / "config.json")


class Bomb:
    def __reduce__(self):
        return (open, ("exploded", "w"))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_a_pickle_is_refused_and_not_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "x"
    folder.mkdir()
    (folder / name).write_bytes(pickle.dumps(Bomb()))
    for path in (folder, folder / name):
        with pytest.raises(UserError, match=f"(?s){name} is a pickle, which runs whatever code.*save_pretrained"):
            Tensors(path)
    assert not (tmp_path / "exploded").exists()


def test_a_folder_without_weights(tmp_path):
    with pytest.raises(UserError, match="There is no .*nowhere"):
        Tensors(tmp_path / "nowhere")
    with pytest.raises(UserError, match=f"neither {WEIGHTS} nor {INDEX}"):
        Tensors(tmp_path)
    save_file({"a": np.ones(1)}, tmp_path / "adapter.safetensors")
    with pytest.raises(UserError, match="there are adapter.safetensors: name one of them"):
        Tensors(tmp_path)


# The whole folder or none.


def test_a_folder_is_whole_or_not_at_all(tmp_path):
    target = tmp_path / "deep" / "model"
    with pytest.raises(KeyboardInterrupt), new_folder(target) as folder:
        (folder / "half").write_text("x")
        assert folder.parent == target.parent and not target.exists()
        raise KeyboardInterrupt
    assert not any(target.parent.iterdir())
    with new_folder(target) as folder:
        (folder / "one").write_text("x")
    assert [path.name for path in target.iterdir()] == ["one"]
    with pytest.raises(RuntimeError), new_folder(target) as folder:
        raise RuntimeError
    assert [path.name for path in target.iterdir()] == ["one"]
    with new_folder(target) as folder:
        (folder / "two").write_text("x")
    assert [path.name for path in target.iterdir()] == ["two"]
    assert [path.name for path in target.parent.iterdir()] == ["model"]


def test_two_at_once_do_not_touch_each_other_s(tmp_path):
    """The first one to end has its folder there; the other replaces it, whole."""
    with new_folder(tmp_path / "model") as a:
        (a / "a").write_text("x")
        with new_folder(tmp_path / "model") as b:
            assert not any(b.iterdir())
            (b / "b").write_text("x")
        assert [path.name for path in (tmp_path / "model").iterdir()] == ["b"]
        assert [path.name for path in a.iterdir()] == ["a"]
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["a"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
