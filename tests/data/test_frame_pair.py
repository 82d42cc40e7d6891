"""Two texts in one row, as each published model reads them. The table is what transformers 5.23 gives."""

from types import SimpleNamespace

import numpy as np
import pytest
import tokenizers

from ptjax.data.tokenizers import open_tokenizer
from ptjax.data.transforms import SentencePairs
from tests.data import published

A, B = "the value of a statement", "is it so?"
# Ids before, between and behind the texts, and the sentence types of those five parts.
TABLE = {
    "bert": ([2], [3], [3], (0, 0, 0, 1, 1)),
    "roberta": ([0], [2, 2], [2], (0, 0, 0, 0, 0)),
    "t5_json": ([], [1], [1], (0, 0, 0, 0, 0)),
    "t5": ([], [1], [1], (0, 0, 0, 0, 0)),
    "albert": ([2], [3], [3], (0, 0, 0, 1, 1)),
    "xlnet": ([], [4], [4, 3], (0, 0, 0, 1, 1)),  # and 2 for the last id
    "deberta": ([1], [2], [2], (0, 0, 0, 1, 1)),
    "xlm_roberta": ([0], [2, 2], [2], (0, 0, 0, 0, 0)),
    "llama": ([1], [1], [], (0, 0, 0, 0, 0)),
    "gpt2": ([], [0], [], (0, 0, 0, 0, 0)),  # published without a frame: the boundary of documents
    "qwen2": ([], [500], [], (0, 0, 0, 0, 0)),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    return {make.__name__: make(folder / make.__name__) for make in (*published.JSON, *published.MODELS)}


@pytest.mark.parametrize("name", TABLE)
def test_two_texts_stand_as_the_model_was_trained_to_read_them(name, folders):
    tokenizer = open_tokenizer(folders[name])
    a, b = tokenizer.encode_batch([A, B])
    before, between, behind, kinds = TABLE[name]
    parts = before, a.tolist(), between, b.tolist(), behind
    ids, types = tokenizer.frame_pair(a, b)
    assert ids.dtype == types.dtype == np.int32 and len(a) > 3 and len(b) > 2
    assert ids.tolist() == [i for part in parts for i in part]
    wanted = [kind for part, kind in zip(parts, kinds) for _ in part]
    assert types.tolist() == (wanted[:-1] + [2] if name == "xlnet" else wanted)
    assert tokenizer.pair_overhead == len(ids) - len(a) - len(b) == len(tokenizer.frame_pair([], [])[0])


@pytest.mark.parametrize("name", ["bert", "roberta", "t5_json"])
def test_the_library_gives_the_same(name, folders):
    library = tokenizers.Tokenizer.from_file(str(folders[name] / "tokenizer.json"))
    library.no_truncation()
    library.no_padding()
    wanted = library.encode(A, B)
    tokenizer = open_tokenizer(folders[name])
    ids, types = tokenizer.frame_pair(*tokenizer.encode_batch([A, B]))
    assert (ids.tolist(), types.tolist()) == (wanted.ids, wanted.type_ids)


def test_settings_that_frame_a_text_otherwise_frame_a_pair_so(folders, tmp_path):
    published.write(
        tmp_path / "framed",
        {
            "tokenizer.json": (folders["bert"] / "tokenizer.json").read_text(),
            "tokenizer_config.json": {"add_bos_token": True, "add_eos_token": False, "bos_token": "[CLS]"},
        },
    )
    assert open_tokenizer(tmp_path / "framed").pair_template == ((2, 0), ("a", 0), (2, 0), ("b", 0))


@pytest.mark.parametrize("pair", ["[CLS] $A $B [SEP]", "[CLS] $A $B [SEP] [SEP]"])
def test_a_template_that_puts_nothing_between_the_texts(pair, folders, tmp_path):
    """The model could not tell them apart: both are framed."""
    tokenizer = tokenizers.Tokenizer.from_file(str(folders["bert"] / "tokenizer.json"))
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair=pair, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    published.write(tmp_path / "bert", {"tokenizer.json": tokenizer.to_str()})
    found = open_tokenizer(tmp_path / "bert").pair_template
    assert found == ((2, 0), ("a", 0), (3, 0), (2, 0), ("b", 0), (3, 0))


def test_own_pairs_are_those_of_pre_training(tiny_corpus):
    tokenizer = open_tokenizer(tiny_corpus.path)
    row = tokenizer.encode("It is so. Is it? It is. So it is. " * 3)
    stream = SimpleNamespace(vocab=tokenizer.vocab, length=len(row))
    batch = SentencePairs("order")({"tokens": row[None], "index": np.array([0])}, stream, seed=0, step=0)
    trained = batch["order_tokens"][0]
    first, second = np.flatnonzero(trained == tokenizer.vocab.sep_id)
    ids, types = tokenizer.frame_pair(trained[1:first], trained[first + 1 : second])
    assert batch["order_weight"][0] == 1 and min(first, second - first) > 5
    assert (ids.tolist(), types.tolist()) == (trained.tolist(), batch["order_types"][0].tolist())
