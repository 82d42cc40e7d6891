"""Texts as vectors: whatever shares a batch, what is pooled, and the main."""

import functools
import json

import chz
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import embed
from ptjax.config import UserError, to_json
from ptjax.data.tokenizers import open_tokenizer
from ptjax.embed import POOLING, Embedder, Pooling, _pooled
from ptjax.models import BERT, GPT
from ptjax.models.heads import init, language_model
from ptjax.train import Run
from ptjax.types import Mask, TextInput
from tests import small

TEXTS = ["The", "a value", "", "The value of a name is bound " * 3, "import", "The statement " * 40, "Crème 東京"]


def embedder_of(corpus, model, causal: bool, **pooling) -> Embedder:
    """Random weights, large enough that each token and each place counts."""
    tokenizer = open_tokenizer(corpus.path)
    net = language_model(model, tokenizer.vocab.size, transform=False, bias=False)
    shapes = jax.eval_shape(lambda: init(net, jax.random.key(0), 8))
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda x: jnp.asarray(draw.normal(size=x.shape) * 0.3, x.dtype), shapes)
    return Embedder(model, net, params, tokenizer, Pooling(**pooling), causal)


@pytest.fixture(scope="module")
def masked(tiny_corpus, tmp_path_factory):
    """A masked language model's run, and its workdir."""
    return small.saved(small.experiment(tiny_corpus), tmp_path_factory.mktemp("masked"))


@pytest.fixture(scope="module")
def embedder(tiny_corpus):
    return embedder_of(tiny_corpus, BERT(**small.SIZE), False)


def states(embedder, text: str) -> np.ndarray:
    """[n, D]: of the text alone, without padding."""
    ids = embedder.encode(text)[None]
    inputs = TextInput(ids, np.arange(ids.shape[1])[None], Mask(causal=embedder.causal))
    apply = jax.jit(functools.partial(embedder.net.apply, method="hidden"))
    return np.asarray(apply({"params": embedder.params}, inputs).last[0])


@pytest.mark.parametrize("kind, pool", [("bert", "mean"), ("bert", "cls"), ("gpt", "last")])
def test_a_vector_is_of_its_text_alone(tiny_corpus, kind, pool):
    """Neither padding nor the other texts of a batch are in it."""
    model = {"bert": BERT, "gpt": GPT}[kind](**small.SIZE)
    embedder = embedder_of(tiny_corpus, model, kind == "gpt", pool=pool, normalise=False)
    texts = [TEXTS[0], TEXTS[3]]
    pooled = {"mean": lambda h: h.mean(axis=0), "cls": lambda h: h[0], "last": lambda h: h[-1]}[pool]
    np.testing.assert_allclose(embedder.embed(TEXTS)[[0, 3]], [pooled(states(embedder, t)) for t in texts], atol=2e-5)


def test_order_and_company_do_not_matter(embedder):
    vectors = embedder.embed(TEXTS)
    np.testing.assert_allclose(embedder.embed(TEXTS[::-1])[::-1], vectors, atol=1e-5)
    np.testing.assert_allclose(embedder.embed([TEXTS[1]])[0], vectors[1], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.abs(vectors[:, None] - vectors).max(axis=-1)[~np.eye(len(TEXTS), dtype=bool)].min() > 1e-3
    assert embedder.embed([]).shape == (0, 32)


def test_a_text_is_framed_and_cut_inside_its_frame(embedder, tiny_corpus):
    before, behind = embedder.tokenizer.framing
    assert before or behind
    long = embedder.encode(TEXTS[5])
    assert len(embedder.tokenizer.encode(TEXTS[5])) > len(long) == 64 == embedder.length
    assert long[64 - len(behind) :].tolist() == list(behind) and long[: len(before)].tolist() == list(before)
    shorter = embedder_of(tiny_corpus, embedder.model, False, length=9)
    assert len(shorter.encode(TEXTS[5])) == 9 and shorter.length == 9


def test_lengths_are_few(embedder):
    """Texts of 1 to 60 words compile three lengths, in batches of a power of two."""
    texts = ["word " * count for count in range(1, 61)] * 3
    seen = set()
    original = _pooled._cache_size()
    embedder.embed(texts)
    first = _pooled._cache_size() - original
    embedder.embed(texts[::-1])
    assert first <= 6 and _pooled._cache_size() - original == first, seen


def test_who_only_continues_text_does_not_look_ahead(tiny_corpus, masked, tmp_path):
    """By the objective that the body was trained with."""
    for made, causal in ((small.saved(small.experiment(tiny_corpus, "causal"), tmp_path), True), (masked, False)):
        embedder = Embedder.of_workdir(made.run, made.workdir, pooling=Pooling(pool="cls", normalise=False))
        assert embedder.causal is causal
        one, other = embedder.embed(["The value", "The name"])
        assert bool(np.abs(one - other).max() < 1e-6) is causal


def test_a_text_without_tokens_is_refused(embedder, monkeypatch):
    monkeypatch.setattr(type(embedder.tokenizer), "framing", property(lambda _: ((), ())))
    with pytest.raises(UserError, match="'' has no tokens"):
        embedder.embed(["a", ""])


def test_a_body_of_pairs_is_refused(tiny_corpus, tmp_path):
    from ptjax.models import T5
    from ptjax.objectives import SpanCorruption

    e = small.experiment(tiny_corpus, model=T5(**small.SIZE), objective=SpanCorruption())
    with pytest.raises(UserError, match="T5 reads pairs of texts"):
        Embedder.of_workdir(Run.open(e), tmp_path)


# The main.


def test_the_main_shows_similarities(masked, capsys):
    assert small.call(embed, f"--workdir={masked.workdir}", "--text=The value", "--text=A name") == 0
    out = capsys.readouterr().out
    assert "cosine similarity" in out and out.count("1.000") == 2 and "A name" in out


def test_the_main_writes_vectors(masked, tmp_path, capsys, monkeypatch):
    workdir = masked.workdir
    texts = [f"--text={text}" for text in TEXTS]
    assert small.call(embed, f"--workdir={workdir}", *texts, f"--output={tmp_path / 'x.npy'}", "--raw") == 0
    assert small.call(embed, f"--workdir={workdir}", *texts, f"--output={tmp_path / 'x.jsonl'}", "--raw") == 0
    table = np.load(tmp_path / "x.npy")
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert [line["text"] for line in lines] == TEXTS and table.shape == (len(TEXTS), 32)
    np.testing.assert_allclose([line["embedding"] for line in lines], table, rtol=1e-6)
    assert np.abs(np.linalg.norm(table, axis=1) - 1).min() > 1e-3


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "Say what to embed"),
        (["--text=a", "--output=x.csv"], "the name ends in .npy or .jsonl"),
        (["--text=a", "--length=0"], "--length=0: at least 1"),
        ([f"--text={i}" for i in range(21)], "21 texts are too many for a table"),
        (["--text=a", "--output=nowhere/x.npy"], "nowhere"),
    ],
)
def test_the_main_explains(masked, arguments, message, capsys):
    assert small.call(embed, f"--workdir={masked.workdir}", *arguments) == 2
    assert message in capsys.readouterr().err


def test_pooling_beside_the_weights_is_the_default(masked, tmp_path):
    run = masked.run
    (tmp_path / POOLING).write_text(to_json(Pooling(pool="last", length=5)))
    assert Pooling.of_workdir(tmp_path) == Pooling(pool="last", length=5)
    assert Pooling.of_workdir(masked.workdir) == Pooling()
    with pytest.raises(ValueError, match="at least 1"):
        chz.replace(Pooling(), length=0)
    assert Embedder.of_workdir(run, masked.workdir).pooling == Pooling()
