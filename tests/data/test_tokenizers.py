"""Tokenizers lose nothing, and the vocabulary's tables tell the truth about the text."""

import pickle

import numpy as np
import pytest
from hypothesis import given, strategies as st
from pydoc_data.topics import topics

from ptjax.config import UserError
from ptjax.data.tokenizers import CONTROL_PIECES, SentencePiece, VocabSpec, open_tokenizer

TEXTS = [topics[name] for name in sorted(topics)[:30]] + ["def f(x):\n    if x:\n\treturn x  # naïve café ☃\n" * 20]
ANY_TEXT = (
    st.text(st.characters(exclude_categories=["Cs"]))
    | st.text("  \t\n\r\0▁abé<s>☃\ufeff\u0301")
    | st.sampled_from(TEXTS)
)


@pytest.fixture(scope="module", params=["unigram", "bpe"])
def tokenizer(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    path.write_bytes(SentencePiece(model=request.param, vocab_size=600).train(TEXTS))
    return open_tokenizer(path)


@given(text=ANY_TEXT)
def test_round_trip_loses_nothing(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.vocab.piece_bytes[ids].sum() == len(text.encode())
    assert not set(ids.tolist()) & set(tokenizer.vocab.special_ids)
    assert np.array_equal(tokenizer.encode_batch(["a", text])[1], ids)


@given(text=ANY_TEXT)
def test_no_piece_reaches_over_a_newline(tokenizer, text):
    assert all(piece == "\n" or "\n" not in piece for piece in tokenizer.pieces(tokenizer.encode(text)))


def test_text_that_looks_like_control_pieces_is_text(tokenizer):
    text = "".join(CONTROL_PIECES) + "<0x41>"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert not set(tokenizer.encode(text).tolist()) & set(tokenizer.vocab.special_ids)


def test_vocabulary(tokenizer):
    vocab = tokenizer.vocab
    assert vocab.size == 600 == len(vocab.starts_word) == len(vocab.ends_word) == len(vocab.piece_bytes)
    names = ("pad", "unk", "bos", "eos", "mask", "cls", "sep")
    ids = [getattr(vocab, f"{name}_id") for name in names]
    assert ids == list(range(7)) == list(vocab.special_ids)
    assert tokenizer.pieces(ids) == list(CONTROL_PIECES)
    for spec in (vocab, vocab.extended(5)):  # an objective's own ids are special too
        assert np.flatnonzero(~spec.ordinary).tolist() == list(spec.special_ids) and len(spec.ordinary) == spec.size
    assert not vocab.piece_bytes[:7].any() and vocab.piece_bytes[7:].all()
    assert (vocab.piece_bytes[7:263] == 1).all()  # byte pieces
    assert (vocab.boundary_id, vocab.boundary_side) == (vocab.eos_id, "end")
    assert open_tokenizer(tokenizer.path, "begin").vocab.boundary_id == vocab.bos_id
    assert tokenizer.decode([vocab.cls_id, *tokenizer.encode("a b"), vocab.eos_id]) == "a b"


def test_units_are_words_and_punctuation(tokenizer):
    text = "\nthe statement, (expression) a_name\n    yield value"
    ids = tokenizer.encode(text)
    starts = tokenizer.vocab.starts_word[ids] | np.append(True, tokenizer.vocab.ends_word[ids][:-1])
    units = np.split(ids, np.flatnonzero(starts)[1:])
    words = [tokenizer.decode(unit).strip(" ") for unit in units]
    assert "".join(words) == text.replace(" ", "")
    for word in ("statement", "expression", "a_name", "yield", "value", "\n"):
        assert word in words


def test_sentences_end_where_the_text_says(tokenizer):
    vocab = tokenizer.vocab
    ids = tokenizer.encode("one. two? three! four; five\nsix: 3")
    ends = [tokenizer.decode([i]) for i in ids if vocab.ends_sentence[i]]
    assert ends == [".", "?", "!", "\n"]  # some a piece of their own, some spelled as a byte
    assert not vocab.ends_sentence[list(vocab.special_ids)].any() and len(vocab.ends_sentence) == vocab.size
    assert not vocab.extended(3).ends_sentence[-3:].any() and len(vocab.extended(3).ends_sentence) == vocab.size + 3
    assert 0 < VocabSpec.synthetic(100).ends_sentence[7:].mean() < 0.5


def test_training_is_deterministic_and_silent(capfd):
    config = SentencePiece(vocab_size=500)
    assert config.train(TEXTS) == config.train(iter(TEXTS))
    assert capfd.readouterr() == ("", "")


def test_vocabulary_of_impossible_size():
    with pytest.raises(UserError, match=r"set it to (\d+) or less") as error:
        SentencePiece(vocab_size=50_000).train(TEXTS)
    possible = int(str(error.value).split("set it to ")[1].split()[0])
    assert 600 < possible < 50_000
    SentencePiece(vocab_size=possible).train(TEXTS)
    with pytest.raises(UserError, match=r"set it to (\d+) or more"):
        SentencePiece(vocab_size=280).train(TEXTS)
    with pytest.raises(UserError, match="tokenizer.character_coverage is out of range; SentencePiece wants it >= 0.98"):
        SentencePiece(vocab_size=500, character_coverage=0.5).train(TEXTS)


def test_bad_files(tmp_path):
    with pytest.raises(UserError, match="no tokenizer at .*experiments.prepare"):
        open_tokenizer(tmp_path / "absent")
    (tmp_path / "damaged").write_bytes(b"not a model")
    with pytest.raises(UserError, match="damaged"):
        open_tokenizer(tmp_path / "damaged")


def test_pickle(tokenizer):
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.hash == tokenizer.hash and copy.decode(copy.encode("x y")) == "x y"


def test_synthetic_vocabulary_is_consistent():
    vocab = VocabSpec.synthetic(100, "begin")
    assert vocab.boundary_id == vocab.bos_id
    assert set(vocab.special_ids) == set(np.flatnonzero(vocab.piece_bytes == 0))
    assert len({vocab.pad_id, vocab.unk_id, vocab.bos_id, vocab.eos_id, vocab.mask_id, vocab.cls_id, vocab.sep_id}) == 7
    assert 0 < vocab.starts_word[7:].mean() < 1
