"""Hugging Face's folders: every tensor accounted for in both directions, hostile ones refused whole, and no more of a
model in memory than one leaf."""

import contextlib
import functools
import json
import re
import shutil
import tracemalloc
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file

from ptjax.config import UserError
from ptjax.interop.families import FAMILIES
from ptjax.interop.huggingface import load, save
from ptjax.interop.published import Values, leaf_shapes, look
from ptjax.interop.tensors import INDEX, WEIGHTS
from ptjax.models import GPT, TransformerXL
from ptjax.types import PyTree

FIXTURES = Path(__file__).parents[1] / "fixtures" / "families"
ROWS = 90  # of their vocabulary
HEAD = "cls.predictions.transform.dense.weight"


@functools.cache
def loaded(name):
    return load(FIXTURES / name)


@pytest.fixture
def bert(tmp_path):
    """A copy to spoil: BertForPreTraining."""
    return Path(shutil.copytree(FIXTURES / "bert", tmp_path / "bert"))


@pytest.fixture
def gpt2(tmp_path):
    return Path(shutil.copytree(FIXTURES / "gpt2", tmp_path / "gpt2"))


def describe(folder, **keys):
    """Changes config.json; None takes a key out."""
    path = folder / "config.json"
    theirs = json.loads(path.read_text()) | keys
    path.write_text(json.dumps({key: value for key, value in theirs.items() if value is not None}))


def retensor(folder, function):
    """Writes what `function` makes of the dict of tensors."""
    save_file(function(load_file(folder / WEIGHTS)), folder / WEIGHTS)


def assert_same(a: PyTree, b: PyTree):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture
def allocates_nothing(monkeypatch):
    """Whatever is refused is refused before an array is made."""
    monkeypatch.setattr(jax, "make_array_from_callback", lambda *_: pytest.fail("an array was made"))


def refused(folder, said, **how):
    with pytest.raises(UserError, match=said) as caught:
        load(folder, **how)
    assert str(folder) in str(caught.value)
    return str(caught.value)


# What is refused.


CONFIGS = {
    "another family's": (dict(model_type="gpt2", n_embd=16, n_layer=2, n_head=2), r"h\.0\.attn\.c_attn\.bias: missing"),
    "an unknown family's": (dict(model_type="mamba"), r"model_type='mamba'; ptjax knows .*bert, .*gpt2"),
    "no family's": (dict(model_type=None), "model_type=None"),
    "a list as its family": (dict(model_type=["bert"]), r"model_type=\['bert'\]"),
    "no vocabulary": (dict(vocab_size=None), "has no vocab_size"),
    "a size that is negative": (dict(hidden_size=-16), "hidden_size=-16, where a whole number from 1"),
    "a size that is zero": (dict(num_attention_heads=0), "num_attention_heads=0"),
    "fewer types than none": (dict(type_vocab_size=-1), "type_vocab_size=-1, where a whole number from 0"),
    "no types": (dict(type_vocab_size=0), "token_type_embeddings.weight: left over"),
    "a size that is a float": (dict(hidden_size=16.0), r"hidden_size=16\.0"),
    "a size that is a bool": (dict(num_hidden_layers=True), "num_hidden_layers=True"),
    "a size that is text": (dict(vocab_size="90"), "vocab_size='90'"),
    "a size beyond all bounds": (dict(hidden_size=10**12), "hidden_size=1000000000000"),
    "more layers than there is memory to list": (dict(num_hidden_layers=10**9), "num_hidden_layers=1000000000"),
    "more layers than tensors": (dict(num_hidden_layers=3), r"layer\.2\.attention\.output\.LayerNorm.bias: missing"),
    "fewer layers than tensors": (dict(num_hidden_layers=1), r"layer\.1\.attention\.output\.LayerNorm.bias: left over"),
    "heads that do not divide": (dict(num_attention_heads=3), "width=16 is not divisible by heads=3"),
    "another width": (dict(hidden_size=32), r"(?s)other shapes.*\[90, 16\] there, \[90, 32\] by config.json"),
    "another vocabulary": (dict(vocab_size=91), r"word_embeddings.weight: \[90, 16\] there, \[91, 16\]"),
    "another number of positions": (dict(max_position_embeddings=41), r"\[40, 16\] there, \[41, 16\]"),
    "an activation of its own": (dict(hidden_act="relu"), "hidden_act='relu'"),
    "dropout that is text": (dict(hidden_dropout_prob="much"), "hidden_dropout|dropout"),
    "architectures of a kind": (dict(architectures="BertModel"), "architectures='BertModel'"),
}


@pytest.mark.parametrize("what", CONFIGS)
def test_a_config_with(what, bert, allocates_nothing):
    keys, said = CONFIGS[what]
    describe(bert, **keys)
    refused(bert, said)


@pytest.mark.parametrize("text, said", [(None, "There is no"), ("{", "is not JSON"), ("[1]", "holds a list")])
def test_a_config_that_is_none(text, said, bert):
    (bert / "config.json").unlink()
    if text is not None:
        (bert / "config.json").write_text(text)
    refused(bert, f"{said}.*|.*config.json {said}")


HOSTILE = (None, -1, 0, 1.5, 10**9, "x", [], {}, True, [1], {"a": 1}, 1e400)
KEYS = [
    (folder.name, key)
    for folder in sorted(FIXTURES.iterdir())
    for key in json.loads((folder / "config.json").read_text())
]


@settings(max_examples=60)
@given(st.sampled_from(KEYS), st.sampled_from(HOSTILE))
def test_whatever_a_config_says_is_understood_or_refused(tmp_path_factory, where, value):
    """Never another exception, nor a table that its net does not have."""
    name, key = where
    folder = tmp_path_factory.mktemp("config") / name
    shutil.copytree(FIXTURES / name, folder)
    (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | {key: value}))
    with contextlib.suppress(UserError):
        look(folder)


def test_code_of_a_model_s_own_is_not_run(bert, monkeypatch):
    """Not from auto_map, nor by a name that could be imported."""
    monkeypatch.chdir(bert)
    (bert / "modeling_own.py").write_text("open('exploded', 'w')")
    own = {"AutoConfig": "modeling_own.Config", "AutoModel": "modeling_own.Model"}
    describe(bert, auto_map=own, trust_remote_code=True, architectures=["modeling_own:Model"])
    assert_same(load(bert).params, loaded("bert").params)  # for its tensors are those of BERT
    describe(bert, model_type="modeling_own")
    refused(bert, "model_type='modeling_own'")
    assert not (bert / "exploded").exists()


TENSORS = {
    "one missing": (lambda x: {k: v for k, v in x.items() if k != HEAD}, f"{HEAD}: missing"),
    "one left over": (
        lambda x: x | {"classifier.weight": np.ones((2, 16), np.float32)},
        "classifier.weight: left over",
    ),
    "one more in the body": (lambda x: x | {"bert.adapter": np.ones(1, np.float32)}, "bert.adapter: left over"),
    "one under a strange name": (
        lambda x: {k.replace("pooler", "pool"): v for k, v in x.items()},
        r"(?s)pooler\.dense\.bias: missing.*pool\.dense\.bias: left over",
    ),
    "one transposed": (
        lambda x: x | {"bert.encoder.layer.0.intermediate.dense.weight": np.ones((16, 32), np.float32)},
        r"intermediate\.dense\.weight: \[16, 32\] there, \[32, 16\]",
    ),
    "one flat": (lambda x: x | {HEAD: np.ones(256, np.float32)}, r"\[256\] there, \[16, 16\]"),
    "one of another type": (lambda x: x | {HEAD: x[HEAD].astype(np.int8)}, f"weights are F32.*|{HEAD} is I8"),
    "one of double precision": (lambda x: x | {HEAD: x[HEAD].astype(np.float64)}, f"(?s)convert them.*{HEAD} is F64"),
    "none": (lambda x: {}, "(?s)missing.*and [0-9]+ more"),
    "a tied copy that disagrees": (
        lambda x: x | {"cls.predictions.decoder.weight": x["bert.embeddings.word_embeddings.weight"] + 1e-7},
        r"cls\.predictions\.decoder\.weight has other values than bert\.embeddings\.word_embeddings\.weight",
    ),
    "a tied copy of another shape": (
        lambda x: x | {"cls.predictions.decoder.weight": np.ones((3, 3), np.float32)},
        "decoder.weight has other values",
    ),
    "a tied copy of another type": (
        lambda x: x | {"cls.predictions.decoder.weight": np.ones((3, 3), np.int64)},
        "decoder.weight is I64",
    ),
}


@pytest.mark.parametrize("what", TENSORS)
def test_tensors_with(what, bert, allocates_nothing):
    change, said = TENSORS[what]
    retensor(bert, change)
    refused(bert, said)


def test_a_head_that_ptjax_does_not_know_is_named_and_the_body_can_be_had(bert):
    def classifier(tensors):
        tensors = {name: value for name, value in tensors.items() if not name.startswith("cls.")}
        return tensors | {"classifier.weight": np.ones((2, 16), np.float32), "classifier.bias": np.ones(2, np.float32)}

    describe(bert, architectures=["BertForSequenceClassification"])
    retensor(bert, classifier)
    message = refused(bert, r"\(BertForSequenceClassification\)")
    assert "classifier.bias: left over\n  classifier.weight: left over\n" in message
    assert (
        "BertForMaskedLM, BertForPreTraining" in message and "only=('body',), which mains spell --only=body" in message
    )
    found = load(bert, only=("body",))
    assert_same(found.params, {"body": loaded("bert").params["body"]})
    pooler = tuple(f"bert.pooler.dense.{name}" for name in ("bias", "weight"))
    assert found.left_out == (*pooler, "classifier.bias", "classifier.weight")
    assert load(bert, only=("body", "pooler")).params.keys() == {"body", "pooler"}
    with pytest.raises(UserError, match="has no head: its parts are body, pooler"):
        load(bert, only=("body", "head"))


def test_the_body_alone_is_whole_too(bert):
    retensor(bert, lambda x: x | {"bert.adapter": np.ones(1, np.float32)})
    message = refused(bert, "bert.adapter: left over", only=("body",))
    assert "--only" not in message  # it would not help


def test_a_model_lacks_no_head_that_its_class_has(bert):
    retensor(bert, lambda x: {name: value for name, value in x.items() if not name.startswith("cls.")})
    refused(bert, r"cls\.predictions\.bias: missing")
    assert load(bert, only=("body",)).params.keys() == {"body"}


# What is read.


def test_a_file_may_be_named():
    assert_same(load(FIXTURES / "bert" / WEIGHTS).params, loaded("bert").params)


def test_a_body_that_was_saved_alone_has_no_prefix(bert):
    bare = lambda x: {name.removeprefix("bert."): v for name, v in x.items() if name.startswith("bert.")}
    retensor(bert, bare)
    describe(bert, architectures=["BertModel"])
    found = load(bert)
    assert_same(found.params, {part: loaded("bert").params[part] for part in ("body", "pooler")})
    retensor(bert, lambda x: x | {"classifier.weight": np.ones(2, np.float32)})
    refused(bert, "classifier.weight: left over")
    assert load(bert, only=("body",)).left_out[0] == "classifier.weight"
    retensor(bert, lambda x: {name: value for name, value in x.items() if name != "embeddings.LayerNorm.bias"})
    refused(bert, r"  embeddings\.LayerNorm\.bias: missing", only=("body",))


def test_a_copy_stands_in_for_what_it_repeats(gpt2):
    retensor(gpt2, lambda x: {name.replace("transformer.wte", "lm_head"): value for name, value in x.items()})
    assert_same(load(gpt2).params, loaded("gpt2").params)
    retensor(gpt2, lambda x: x | {"transformer.wte.weight": x["lm_head.weight"]})
    assert_same(load(gpt2).params, loaded("gpt2").params)


def test_buffers_are_left_and_old_names_known(bert):
    def old(tensors):
        tensors = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
            for name, value in tensors.items()
        }
        return tensors | {"bert.embeddings.position_ids": np.arange(40)[None]}

    retensor(bert, old)
    found = load(bert)
    assert_same(found.params, loaded("bert").params)
    assert found.left_out == ()
    retensor(bert, lambda x: x | {"bert.embeddings.LayerNorm.weight": x["bert.embeddings.LayerNorm.gamma"]})
    refused(bert, "bert.embeddings.LayerNorm.gamma: left over")


def test_what_is_learned_and_not_read_is_named(tmp_path):
    """The bias that early T5 checkpoints have for the attention to the encoder."""
    folder = shutil.copytree(FIXTURES / "t5", tmp_path / "t5")
    old = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    assert look(folder).left_out == ()
    retensor(folder, lambda tensors: tensors | {old: np.ones((32, 2), np.float32)})
    assert look(folder).left_out == look(folder, only=("body",)).left_out == (old,)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_becomes_float32(dtype, bert):
    retensor(bert, lambda x: {name: value.astype(dtype) for name, value in x.items()})
    rounded = jax.tree.map(lambda x: np.asarray(x).astype(dtype).astype(np.float32), loaded("bert").params)
    assert_same(load(bert, dtype="bfloat16").params, rounded)
    assert load(bert, dtype="bfloat16").config.dtype == "bfloat16"


def test_ids_that_they_lack_begin_as_the_mean_of_theirs_and_padding_as_zero():
    theirs = load_file(FIXTURES / "bert" / WEIGHTS)
    params = load(FIXTURES / "bert", vocab_size=ROWS + 3).params
    for name, leaf in {
        "bert.embeddings.word_embeddings.weight": params["body"]["embed"]["tokens"],
        "cls.predictions.bias": params["head"]["bias"],
    }.items():
        np.testing.assert_array_equal(leaf[:ROWS], theirs[name])
        for row in leaf[ROWS : ROWS + 3]:
            np.testing.assert_allclose(row, theirs[name].astype(np.float64).mean(axis=0), rtol=1e-6)
        assert len(leaf) == 128 and not np.any(leaf[ROWS + 3 :])


# Over a mesh.


def shardings(shapes, mesh):
    """Divides every axis that can be: the last over two devices, the one before over two."""

    def one(leaf):
        able = [size % 2 == 0 for size in leaf.shape]
        spec = ["abc"[axis] if able[axis] and axis < 3 else None for axis in range(len(leaf.shape))]
        return NamedSharding(mesh, PartitionSpec(*spec))

    return unflatten_dict({path: one(leaf) for path, leaf in shapes.items()}, sep="/")


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_a_mesh_gets_the_same_weights(name):
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(2, 2, 2), tuple("abc"))
    found = look(FIXTURES / name, vocab_size=ROWS + 3)
    where = shardings(found.shapes, mesh)
    params = found.params(where)
    whole = load(FIXTURES / name, vocab_size=ROWS + 3).params
    jax.tree.map(lambda x, sharding: None if x.sharding == sharding else pytest.fail(str(sharding)), params, where)
    assert_same(jax.device_get(params), jax.device_get(whole))


def test_only_leaves_that_are_asked_for_are_made():
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    params = look(FIXTURES / "bert").params({"head": {"bias": here}})
    assert flatten_dict(params, sep="/").keys() == {"head/bias"}


# What is written.


def exported(folder):
    return load_file(folder / WEIGHTS)


def write(folder, name="bert", params=None, config=None, **how):
    found = loaded(name)
    return save(folder, config or found.config, found.params if params is None else params, rows=ROWS, **how)


def test_a_part_is_named_after_the_class_that_holds_it(tmp_path):
    for only, architecture, new in (
        (None, "BertForPreTraining", set()),
        (("body", "head"), "BertForMaskedLM", set()),
        (("body", "pooler"), "BertModel", set()),
        (("body",), "BertModel", {"pooler"}),
    ):
        done = write(tmp_path / "x", only=only)
        assert (done.architecture, done.new) == (architecture, new)
        assert json.loads((tmp_path / "x" / "config.json").read_text())["architectures"] == [architecture]
        bare = {name.partition(".")[0] for name in exported(tmp_path / "x")} & {"bert", "embeddings"}
        assert bare == ({"embeddings"} if architecture == "BertModel" else {"bert"})
        again = load(tmp_path / "x", only=None if not new else ("body",))
        assert_same(again.params, {part: loaded("bert").params[part] for part in only or again.params})


def test_parts_that_no_class_holds_together(tmp_path):
    family, config = loaded("electra").family, loaded("electra").config
    shapes = leaf_shapes(family, config, frozenset({"body", "head", "discriminator_head"}), ROWS)
    params = unflatten_dict({path: np.ones(leaf.shape, np.float32) for path, leaf in shapes.items()}, sep="/")
    with pytest.raises(
        UserError, match="No class of transformers' electra holds body, discriminator_head, head together"
    ):
        save(tmp_path / "x", config, params, rows=ROWS)
    assert save(tmp_path / "x", config, params, rows=ROWS, only=("body", "head")).architecture == "ElectraForMaskedLM"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_written(dtype, tmp_path):
    write(tmp_path / "x", dtype=dtype)
    whole, kind = load_file(FIXTURES / "bert" / WEIGHTS), {"bfloat16": ml_dtypes.bfloat16}.get(dtype, np.float16)
    for name, value in exported(tmp_path / "x").items():
        np.testing.assert_array_equal(value, whole[name].astype(kind))
    described = json.loads((tmp_path / "x" / "config.json").read_text())
    assert described["dtype"] == described["torch_dtype"] == dtype
    with pytest.raises(UserError, match="dtype='float8' is none of float32, float16, bfloat16"):
        write(tmp_path / "x", dtype="float8")


def test_shards_and_more_of_the_config(tmp_path):
    write(tmp_path / "x", max_shard_bytes=4000, described={"pad_token_id": 7, "mask_token_id": None})
    assert (tmp_path / "x" / INDEX).exists() and not (tmp_path / "x" / WEIGHTS).exists()
    assert_same(load(tmp_path / "x").params, loaded("bert").params)
    assert json.loads((tmp_path / "x" / "config.json").read_text())["pad_token_id"] == 7


def test_what_a_family_says_is_not_overridden(tmp_path):
    write(
        tmp_path / "x",
        "roberta",
        described={"hidden_size": 99, "pad_token_id": 1, "bos_token_id": 7, "eos_token_id": None},
    )
    theirs = json.loads((tmp_path / "x" / "config.json").read_text())
    assert (theirs["hidden_size"], theirs["pad_token_id"], theirs["bos_token_id"]) == (16, 1, 7)
    assert "eos_token_id" not in theirs
    for pad, said in ((0, "has pad_token_id=0"), (None, "has no padding")):
        with pytest.raises(UserError, match=f"{said}, and transformers numbers RoBERTa's positions"):
            write(tmp_path / "y", "roberta", described={"pad_token_id": pad})
    write(tmp_path / "z", "modernbert", described={"pad_token_id": 5})
    theirs = json.loads((tmp_path / "z" / "config.json").read_text())
    assert theirs["pad_token_id"] == 5 and theirs["bos_token_id"] is None


def test_leaves_that_have_no_place_are_named(tmp_path):
    """GPT-2 has no head like that of BERT's masked language model."""
    params = loaded("gpt2").params | {"head": loaded("bert").params["head"]}
    with pytest.raises(UserError, match=r"(?s)gpt2 has no place.*head/bias \[128\].*head/dense/kernel.*--only=body"):
        write(tmp_path / "x", "gpt2", params)
    assert not any(tmp_path.iterdir())
    done = write(tmp_path / "x", "gpt2", params, only=("body",))
    assert (done.architecture, done.left_out) == ("GPT2LMHeadModel", {"head"})
    assert_same(load(tmp_path / "x").params, loaded("gpt2").params)


def lacks_a_leaf(params):
    return unflatten_dict({k: v for k, v in flatten_dict(params).items() if "positions" not in k})


def has_more_layers(params):
    return params | {
        "body": params["body"] | {"layers": jax.tree.map(lambda x: np.asarray(x)[[0, 1, 1]], params["body"]["layers"])}
    }


@pytest.mark.parametrize(
    "change, said", [(lacks_a_leaf, "positions: missing"), (has_more_layers, r"\[3, 16\], by the")]
)
def test_params_of_another_config_are_not_written(change, said, tmp_path):
    with pytest.raises(UserError, match=rf"(?s)not those of their config:.*{said}"):
        write(tmp_path / "x", params=change(loaded("bert").params))
    assert not any(tmp_path.iterdir())


def test_bodies_that_transformers_lacks(tmp_path):
    with pytest.raises(UserError, match="transformers has no TransformerXL like this one; it has .*BERT.*GPT"):
        write(tmp_path / "x", config=TransformerXL())
    with pytest.raises(UserError, match="there is no head here: parts are body"):
        write(tmp_path / "x", "gpt2", only=("body", "head"))


def test_a_failure_leaves_what_was_there(tmp_path):
    def fails(folder):
        assert (folder / WEIGHTS).exists()
        raise OSError("no tokenizer")

    with pytest.raises(OSError, match="no tokenizer"):
        write(tmp_path / "x", beside=fails)
    assert not any(tmp_path.iterdir())
    write(tmp_path / "x", beside=lambda folder: (folder / "tokenizer.json").write_text("{}"))
    before = {path.name: path.read_bytes() for path in (tmp_path / "x").iterdir()}
    assert before.keys() == {"config.json", WEIGHTS, "tokenizer.json"}
    huge = jax.tree.map(lambda x: x * 1e6, loaded("bert").params)
    with pytest.raises(UserError, match="too large for float16"):
        write(tmp_path / "x", params=huge, dtype="float16")
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "x").iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_what_is_somebody_else_s_is_not_replaced(tmp_path):
    for name, text in (("config.json", '{"model_type": "bert"}'), ("thesis.txt", "all of it")):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_text(text)
        with pytest.raises(UserError, match=re.escape(f"{folder} holds {name}, not written by ptjax")):
            write(folder)
        assert (folder / name).read_text() == text
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file holds file, not written by ptjax"):
        write(tmp_path / "file")
    write(tmp_path / "own")
    (tmp_path / "own" / "notes.md").write_text("mine")
    with pytest.raises(UserError, match="own holds notes.md, not written by ptjax"):
        write(tmp_path / "own")
    (tmp_path / "own" / "notes.md").unlink()
    write(tmp_path / "own", only=("body",))
    assert load(tmp_path / "own", only=("body",)).params.keys() == {"body"}


def test_what_others_went_on_with_is_not_replaced(tmp_path):
    """transformers' save_pretrained copies our key of config.json and writes files of the same names and sizes."""
    folder = tmp_path / "own"
    write(folder)
    text = (folder / "config.json").read_text()
    retensor(folder, lambda tensors: tensors | {HEAD: tensors[HEAD] + 1})
    changed = (folder / WEIGHTS).read_bytes()
    with pytest.raises(UserError, match=f"own holds {WEIGHTS}, not written by ptjax or changed since"):
        write(folder)
    assert (folder / WEIGHTS).read_bytes() == changed
    shutil.rmtree(folder)
    write(folder)
    describe(folder, transformers_version="5")
    with pytest.raises(UserError, match="own holds config.json, "):
        write(folder)
    (folder / "config.json").write_text(text)

    def meanwhile(_):
        (folder / "thesis.txt").write_text("all of it")

    with pytest.raises(UserError, match="own holds thesis.txt, "):
        write(folder, beside=meanwhile)
    assert {path.name for path in folder.iterdir()} == {"config.json", WEIGHTS, "thesis.txt"}
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


# Memory.

LARGE = GPT(layers=32, width=64, heads=2, hidden=128, max_length=64)
SLACK = 400_000  # of Python's own


class OnDisk:
    """A leaf that is made anew whenever it is read."""

    def __init__(self, leaf):
        self.shape, self.dtype = leaf.shape, leaf.dtype

    def __array__(self, dtype=None, copy=None):
        return np.full(self.shape, 0.5, np.float32)


@pytest.fixture(scope="module")
def shapes():
    family = next(family for family in FAMILIES if family.own(LARGE))
    return unflatten_dict(leaf_shapes(family, LARGE, frozenset({"body"}), ROWS), sep="/")


@pytest.fixture(scope="module")
def large(shapes, tmp_path_factory):
    """A folder of 4 MB whose largest leaf has a quarter of it."""
    folder = tmp_path_factory.mktemp("large") / "model"
    save(folder, LARGE, jax.tree.map(OnDisk, shapes), rows=ROWS)
    return folder


def sizes(shapes):
    return sorted(4 * int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))


def peak(function):
    """(bytes that numpy held at most, bytes that it holds in the end) of function()."""
    tracemalloc.start()
    try:
        result = function()
        now, most = tracemalloc.get_traced_memory()
        del result
        return most, now
    finally:
        tracemalloc.stop()


def test_a_model_is_written_a_leaf_at_a_time(shapes, tmp_path):
    """Or three, where queries, keys and values are one tensor."""
    together = 3 * 4 * LARGE.layers * LARGE.width**2
    most, _ = peak(lambda: save(tmp_path / "x", LARGE, jax.tree.map(OnDisk, shapes), rows=ROWS))
    assert most < together + SLACK < sum(sizes(shapes)) / 2


def test_a_model_is_read_a_leaf_at_a_time(shapes, large):
    """Besides what is kept of it: on a CPU, jax may keep the memory that it is given."""
    *_, largest = sizes(shapes)
    found = look(large)
    most, held = peak(found.params)
    assert held < sum(sizes(shapes)) + SLACK and most - held < largest + SLACK
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(8), ("a",))
    layers = NamedSharding(mesh, PartitionSpec("a"))
    stacked = jax.tree.map(lambda _: layers, shapes["body"]["layers"])
    most, held = peak(lambda: found.params({"body": {"layers": stacked}}))
    assert most - held < largest + SLACK


def test_a_layer_of_a_leaf_is_read_alone(shapes, large):
    found = look(large)
    (entry,) = [entry for entry in found.entries if entry.ours == "body/layers/block/mlp/up/kernel"]
    leaf = Values(found, entry)
    most, _ = peak(lambda: leaf((slice(3, 4), slice(None), slice(None))))
    assert most < SLACK / 4 and leaf((slice(3, 4), slice(0, 2), slice(None))).shape == (1, 2, 128)
