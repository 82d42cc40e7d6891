"""The index of documents says where they are, as a search through the whole stream does."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from ptjax.data.documents import Documents, write_index
from ptjax.data.pipeline import Data, Pipeline
from ptjax.data.tokenizers import VocabSpec

BLOCK = 8


class Memory:
    """`Blocks` of a stream that is no file."""

    def __init__(self, tokens):
        self.blocks = tokens.reshape(-1, BLOCK)

    def __len__(self):
        return len(self.blocks)

    def get(self, numbers):
        return [self.blocks[n] for n in numbers]


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=20),
    side=st.sampled_from(["end", "begin"]),
    stretch=st.sampled_from([1, 3, 1024]),
)
def test_documents_are_where_the_boundaries_say(tmp_path_factory, sizes, side, stretch):
    vocab = VocabSpec.synthetic(50, side)
    numbers = np.repeat(np.arange(len(sizes)), np.array(sizes) + 1)  # a boundary for each
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))
    stops = np.append(starts[1:], len(numbers))
    tokens = np.full(len(numbers), 20)
    tokens[starts if side == "begin" else stops - 1] = vocab.boundary_id
    blocks = Memory(np.append(tokens, np.full(-len(tokens) % BLOCK, vocab.pad_id)))
    path = tmp_path_factory.mktemp("index") / "documents"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ptjax.data.documents._STRETCH", stretch)
        write_index(path, blocks, vocab.boundary_id)
    assert np.load(path).tolist() == [(tokens[: k * BLOCK] == vocab.boundary_id).sum() for k in range(len(blocks))]
    documents = Documents(path, blocks, BLOCK, len(sizes), len(tokens), vocab)
    assert len(documents) == len(sizes)
    assert [documents.span(n) for n in range(len(sizes))] == list(zip(starts, stops))
    assert [documents.number(position) for position in range(len(tokens))] == numbers.tolist()


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_pipeline_is_its_stream(tiny_corpus, split):
    pipeline = Pipeline(Data(corpus=tiny_corpus, length=32), split)
    tokens = pipeline.read(0, 10**9)
    assert len(tokens) == pipeline.metadata["splits"][split]["tokens"] and tokens.dtype == np.int32
    whole = np.append(tokens, np.full(-len(tokens) % 32, pipeline.vocab.pad_id))
    assert np.array_equal(pipeline.read_rows(np.arange(pipeline.rows)).ravel(), whole)
    stops = np.flatnonzero(tokens == pipeline.vocab.boundary_id) + 1
    starts = np.append(0, stops[:-1])
    assert pipeline.documents == len(stops) == pipeline.metadata["splits"][split]["documents"]
    for n in [*range(0, len(stops), 7), len(stops) - 1]:
        start, stop = pipeline.document(n)
        assert (start, stop) == (starts[n], stops[n])
        assert np.array_equal(pipeline.read(start, stop), tokens[start:stop])
        assert pipeline.document_of(start) == pipeline.document_of(stop - 1) == n
    for start, stop in ((5, 5), (127, 129), (128, 256), (100, 700), (len(tokens), len(tokens) + 9)):
        assert np.array_equal(pipeline.read(start, stop), tokens[start:stop])
