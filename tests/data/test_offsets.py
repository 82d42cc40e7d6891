"""Every piece knows where it stands in the text, in characters, whatever the tokenizer makes of them."""

import itertools
import unicodedata

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st

from ptjax.data.tokenizers import SentencePiece, open_tokenizer
from tests.data import published
from tests.data.published import LINES

ALPHABET = "  \t\n abcdefTheÉé\u0301\u0300ﬁ㎞Ⅻ½😀👩\u200d\u200b\u0344\u0f73\ufeffİΣς가\u1100\u1161\u11a8中\u3000▁Ġ"
ALPHABET += "#[]<s>`'\"-.\0\x1c"
TEXTS = st.text(ALPHABET, max_size=14) | st.sampled_from(LINES) | st.text(st.characters(exclude_categories=["Cs"]))
EXACT = ("own", published.gpt2, published.roberta, published.llama)  # bytes in, bytes out
NORMALISING = ("nfkc", published.bert, published.qwen2, published.t5_json, *published.MODELS[:4], published.xlm_roberta)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A tokenizer of each kind, made when it is asked for."""
    made, folder = {}, tmp_path_factory.mktemp("tokenizers")

    def opened(kind):
        if kind not in made:
            name = getattr(kind, "__name__", kind)
            if callable(kind):
                made[kind] = open_tokenizer(kind(folder / name))
            else:
                (folder / name).mkdir()
                rule = "identity" if kind == "own" else "nmt_nfkc_cf"
                model = SentencePiece(vocab_size=600, normalization=rule).train(LINES)
                (folder / name / "tokenizer.model").write_bytes(model)
                made[kind] = open_tokenizer(folder / name / "tokenizer.model")
        return made[kind]

    return opened


@pytest.mark.parametrize("kind", [*EXACT, *NORMALISING])
@settings(max_examples=50)
@given(text=TEXTS)
@example(text="\x1b\r0")
def test_ids_are_those_of_encode_and_spans_are_in_order(opened, kind, text):
    ids, spans = opened(kind).encode_offsets(text)
    assert ids.dtype == spans.dtype == np.int32 and spans.shape == (len(ids), 2)
    assert np.array_equal(ids, opened(kind).encode(text))
    assert (np.diff(spans, axis=1) >= 0).all() and (np.diff(spans, axis=0) >= 0).all()
    assert not len(spans) or (spans[0, 0] >= 0 and spans[-1, 1] <= len(text))
    said = [text[start:stop] for start, stop in spans]
    assert all(part == part.strip() or not part.strip() for part in said)
    for number, (start, stop) in enumerate(itertools.pairwise(spans[:, 0])):  # no text is lost between two pieces
        between = text[spans[number, 1] : stop]
        kept = not between.strip() or between[0].isspace() or not text[: spans[number, 1]].strip()
        assert kept  # but a word of which nothing is left, at a space or where the text begins


@pytest.mark.parametrize("kind", EXACT)
@given(text=TEXTS)
def test_spans_are_those_of_the_bytes(opened, kind, text):
    """The pieces' bytes, one after the other, are the text's: a piece's span is the characters that its bytes touch."""
    tokenizer = opened(kind)
    if kind is published.llama:  # puts a space before a text, and reads its sign for a space as one
        text = text.replace("▁", "").lstrip()
    ids, spans = tokenizer.encode_offsets(text)
    owner = np.repeat(np.arange(len(text)), [len(c.encode()) for c in text])  # of each byte, its character
    start = -1 if kind is published.llama and text else 0
    for i, span in zip(ids, spans.tolist()):
        stop = start + tokenizer.vocab.piece_bytes[i]
        touched = owner[max(start, 0) : stop]
        start = stop
        low, high = (touched[0], touched[-1] + 1) if len(touched) else (0, 0)
        said = text[low:high]
        if said.strip():
            low, high = low + len(said) - len(said.lstrip()), high - len(said) + len(said.rstrip())
        assert span == [low, high]
    assert start == len(owner)


@settings(max_examples=50)
@given(text=st.text("ab Thée\u0301\u0300É😀中.\0\u200b", max_size=16))
def test_pieces_of_lower_casing_wordpiece_are_what_their_spans_say(opened, text):
    tokenizer = opened(published.bert)
    ids, spans = tokenizer.encode_offsets(text)
    for i, piece, (start, stop) in zip(ids, tokenizer.pieces(ids), spans):
        said = unicodedata.normalize("NFD", text[start:stop].lower())
        said = "".join(c for c in said if unicodedata.category(c) not in ("Mn", "Cf", "Cc"))
        assert piece.removeprefix("##") == said or i == tokenizer.vocab.unk_id


@settings(max_examples=50)
@given(text=st.text("ab xﬁ㎞Ⅻ½éÉ😀", max_size=16))
def test_pieces_of_normalised_characters_share_them(opened, text):
    tokenizer = opened("nfkc")
    ids, spans = tokenizer.encode_offsets(text)
    for piece, (start, stop) in zip(tokenizer.pieces(ids), spans):
        said = unicodedata.normalize("NFKC", text[start:stop]).casefold()
        assert piece.strip("▁") in said or piece.startswith("<0x")


@pytest.mark.parametrize(
    "kind, text, parts",
    [
        (published.bert, "Cafe\u0301 😀x", ["Cafe\u0301", "😀x"]),  # the accent goes with its letter
        (published.bert, "a\0 \u200b b\0\0a", ["a\0", "b\0\0a"]),  # nothing is left of the second word
        (published.qwen2, "e\u0301.", ["e\u0301", "."]),  # two bytes of one letter, from two characters
        (published.gpt2, "a 😀", ["a", "😀"]),
        ("nfkc", "xﬁ  ㎞", ["x", "ﬁ", "㎞"]),
        (published.t5, "xﬁ  ㎞", ["x", "ﬁ", "㎞"]),
        (published.t5_json, "xﬁ  ㎞", ["x", "ﬁ", "㎞"]),
        (published.albert, "``É''", ["``", "É", "''"]),
        (published.deberta, "e\u0301\r\n\tx ", ["e\u0301", "x"]),
        (published.t5, "\ufdfa\u200b", ["\ufdfa\u200b"]),  # one character that becomes four words
    ],
)
def test_parts_of_a_text_are_found(opened, kind, text, parts):
    """Each begins with a piece and ends with one, and outside them there is nothing but space."""
    _, spans = opened(kind).encode_offsets(text)
    spans = [(start, stop) for start, stop in spans.tolist() if text[start:stop].strip()]
    place = 0
    for part in parts:
        start = text.index(part, place)
        place = start + len(part)
        inside = [span for span in spans if start <= span[0] and span[1] <= place]
        assert inside and (inside[0][0], inside[-1][1]) == (start, place)
        spans = [span for span in spans if span not in inside]
    assert not spans


@pytest.mark.parametrize("kind", [published.albert, published.xlnet, published.deberta])
@given(text=TEXTS)
def test_aligned_cleaning_is_cleaning(opened, kind, text):
    tokenizer = opened(kind)
    aligned = tokenizer._aligned(text)
    assert aligned.text == tokenizer._cleaned(text) and len(aligned.places) == len(aligned.text) + 1
    assert aligned.places == sorted(aligned.places) and aligned.places[-1] == len(text)


@pytest.mark.parametrize("kind", [*EXACT, *NORMALISING])
def test_no_text_has_no_pieces(opened, kind):
    ids, spans = opened(kind).encode_offsets("")
    assert ids.shape == (0,) and spans.shape == (0, 2)
