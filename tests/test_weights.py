"""Weights that a run begins with, and decoders that become encoders."""

import functools
import hashlib
import json
import re
import shutil

import chz
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import pretrain, show
from ptjax import config as config_lib
from ptjax.checkpoint import Checkpoints, read_config
from ptjax.config import UserError, to_json
from ptjax.data.tokenizers import VocabSpec
from ptjax.learner import Learner
from ptjax.loop import Loop
from ptjax.models import BERT, GPT, Llama, RoBERTa
from ptjax.models.heads import shapes
from ptjax.objectives import MLM, CausalLM, Hybrid, SpanCorruption
from ptjax.optim import AdamW, Constant
from ptjax.partition import MeshConfig
from ptjax.train import Run, train
from ptjax.weights import Transplant, convert
from tests import small
from tests.contracts.cases import batch, experiment
from tests.small import same

VOCAB = VocabSpec.synthetic(300)
SIZE = small.SIZE | dict(std=0.3)
SPANS = SpanCorruption(sentinels=32)
GPT_, LLAMA = GPT(**SIZE), Llama(**SIZE | dict(heads=4), kv_heads=2)


def random_params(objective, model, seed: int = 0):
    """Nothing in them is zero or symmetric."""
    like, _ = shapes(objective.net(model, objective.vocabulary(VOCAB)), 8)
    draw = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(draw.normal(size=x.shape), x.dtype), like)


def planned(source, source_model, target, model, known: int | None = None) -> Transplant:
    vocab = target.vocabulary(VOCAB)
    fresh, axes = shapes(target.net(model, vocab), 8)
    there = random_params(source, source_model)
    known = source.vocabulary(VOCAB).size if known is None else known
    return Transplant.plan(there, fresh, axes, known=known, size=vocab.size, first_position=model.first_position)


# The pure core.


def test_new_ids_begin_as_the_mean_of_the_known_and_padding_is_zero():
    source, fresh = random_params(CausalLM(), GPT_), random_params(SPANS, GPT_, seed=1)
    transplant = planned(CausalLM(), GPT_, SPANS, GPT_)
    size = SPANS.vocabulary(VOCAB).size
    assert VOCAB.size < size < 384  # the padded rows are as many as before, and yet some of them get a meaning
    table, old = (np.asarray(tree["body"]["embed"]["tokens"]) for tree in (transplant(source, fresh), source))
    assert (table[: VOCAB.size] == old[: VOCAB.size]).all()
    np.testing.assert_allclose(table[VOCAB.size : size], np.tile(old[: VOCAB.size].mean(0), (size - 300, 1)), atol=1e-6)
    assert (table[size:] == 0).all() and len(table) == 384
    assert f"{size - 300} new ids begin as the mean of 300" in str(transplant)
    # and back: what only the objective knew goes, the rest is as it was
    away = planned(SPANS, GPT_, CausalLM(), GPT_)
    assert f"300 of {size} rows" in str(away)
    back = away(transplant(source, fresh), source)
    assert (back["body"]["embed"]["tokens"][VOCAB.size :] == 0).all()
    assert (back["body"]["embed"]["tokens"][: VOCAB.size] == old[: VOCAB.size]).all()
    assert same(back["body"]["layers"], source["body"]["layers"])


def test_a_vocabulary_padded_otherwise():
    """More rows, or fewer: those of the ids stay."""
    for multiple, rows in ((1, 300), (512, 512)):
        model = chz.replace(GPT_, vocab_multiple=multiple)
        source, fresh = random_params(MLM(), GPT_), random_params(MLM(), model, seed=1)
        result = planned(MLM(), GPT_, MLM(), model)(source, fresh)
        for name, leaf in (("tokens", result["body"]["embed"]["tokens"]), ("bias", result["head"]["bias"])):
            old = source["body"]["embed"]["tokens"] if name == "tokens" else source["head"]["bias"]
            assert leaf.shape[0] == rows and (leaf[:300] == old[:300]).all() and (leaf[300:] == 0).all()


def test_positions_are_cut_and_never_invented():
    short = chz.replace(GPT_, max_length=16)
    source = random_params(CausalLM(), GPT_)
    transplant = planned(CausalLM(), GPT_, CausalLM(), short)
    result = transplant(source, random_params(CausalLM(), short, seed=1))
    assert (result["body"]["embed"]["positions"] == source["body"]["embed"]["positions"][:16]).all()
    assert "16 of 64 positions" in str(transplant)
    with pytest.raises(UserError, match="it has 64 positions, too few for 128: set model.max_length=64 or less"):
        planned(CausalLM(), GPT_, CausalLM(), chz.replace(GPT_, max_length=128))


def test_positions_are_counted_without_the_rows_in_front():
    """RoBERTa's table of 66 rows has 64 positions."""
    model = RoBERTa(**SIZE)
    short = chz.replace(model, max_length=16)
    assert "16 of 64 positions" in str(planned(MLM(), model, MLM(), short))
    with pytest.raises(UserError, match="it has 64 positions, too few for 128: set model.max_length=64 or less"):
        planned(MLM(), model, MLM(), chz.replace(model, max_length=128))


def test_heads_are_taken_where_they_fit():
    bert, fresh = BERT(**SIZE), random_params(MLM(), BERT(**SIZE), seed=1)
    whole = planned(MLM(), bert, MLM(), bert)
    source = random_params(MLM(), bert)
    assert str(whole) == "body taken; head taken" and same(whole(source, fresh), source)
    none = planned(CausalLM(), bert, MLM(), bert)
    result = none(random_params(CausalLM(), bert), fresh)
    assert str(none) == "body taken; head fresh" and same(result["head"], fresh["head"])
    behind = planned(MLM(), bert, CausalLM(), bert)
    assert str(behind) == "body taken; head left behind"
    # a table of the head's own is worth as much as the embedding
    untied = chz.replace(bert, tied=False)
    table = planned(CausalLM(), untied, MLM(), untied)
    source, fresh = random_params(CausalLM(), untied), random_params(MLM(), untied, seed=1)
    result = table(source, fresh)
    assert str(table) == "body taken; head taken but for bias, dense, norm"
    assert same(result["head"]["table"], source["head"]["table"]) and same(
        result["head"]["dense"], fresh["head"]["dense"]
    )


@pytest.mark.parametrize(
    "model, lines",
    [
        (chz.replace(GPT_, width=64), ["body/embed/tokens: float32[384, 32] there, float32[384, 64] here"]),
        (
            chz.replace(GPT_, layers=3),
            ["body/layers/block/attention/key/bias: float32[2, 2, 16] there, float32[3, 2, 16] here"],
        ),
        (
            BERT(**SIZE),
            ["body/embed/types: missing there, float32[2, 32] here", "body/norm/bias: float32[32] there, mis"],
        ),
    ],
    ids=["width", "layers", "family"],
)
def test_another_body_is_refused_leaf_by_leaf(model, lines):
    with pytest.raises(UserError) as caught:
        planned(CausalLM(), GPT_, CausalLM(), model)
    assert all(line in str(caught.value) for line in lines), caught.value


def test_more_ids_than_rows_are_refused():
    with pytest.raises(
        UserError, match="body/embed/tokens has 384 rows, too few for 400 ids: it had another tokenizer"
    ):
        planned(CausalLM(), GPT_, CausalLM(), GPT_, known=400)


# Decoders and encoders.


@functools.cache
def hidden_of(objective, model):
    net, vocab = objective.net(model, VOCAB), VOCAB

    @jax.jit
    def states(params, tokens):
        inputs = objective.inputs({"tokens": tokens, "original": tokens}, vocab)
        return net.apply({"params": params}, inputs, method="hidden").last

    return states


def change_at_first(objective, model, params) -> float:
    """How much the state of the first position changes with the last token."""
    tokens = np.random.default_rng(0).integers(8, 300, (2, 16)).astype(np.int32)
    other = tokens.copy()
    other[:, -1] = tokens[:, -1] % 290 + 9
    states = hidden_of(objective, model)
    return float(np.abs(states(params, tokens)[:, 0] - states(params, other)[:, 0]).max())


@pytest.mark.parametrize("model", [GPT_, LLAMA], ids=["gpt", "llama"])
def test_a_decoder_becomes_an_encoder_and_a_decoder_again(model):
    decoder = random_params(CausalLM(), model)
    assert change_at_first(CausalLM(), model, decoder) == 0
    encoder = convert(decoder, CausalLM(), MLM(), model, VOCAB)
    assert set(encoder) == {"body", "head"} and same(encoder["body"], decoder["body"])
    assert change_at_first(MLM(), model, encoder) > 1e-2
    again = convert(encoder, MLM(), CausalLM(), model, VOCAB)
    assert same(again, decoder) and change_at_first(CausalLM(), model, again) == 0


def test_training_goes_on_each_step_of_the_way():
    """Causal, masked, causal: each begins with what the one before has learned, and its loss falls."""
    model, params, last, losses = chz.replace(GPT_, std=0.02), None, None, []
    rows = batch()
    trainers = {}
    for objective in (CausalLM(), MLM(rate=0.2)):
        e = experiment(objective, model, optimizer=AdamW(peak_lr=3e-3, schedule=Constant(warmup=0)))
        learner = Learner(e, VOCAB)
        trainers[objective] = jax.jit(learner.init_state)(np.uint32(0)), jax.jit(learner.train_step)
    for objective in (*trainers, CausalLM()):
        state, step = trainers[objective]
        if params is not None:
            state = state.replace(params=convert(params, last, objective, model, VOCAB))
            assert same(state.params["body"], params["body"])
        losses.append([])
        for _ in range(12):
            state, metrics = step(state, rows)
            total, weight = metrics["loss"]
            losses[-1].append(float(total / weight))
        params, last = state.params, objective
    losses = np.array(losses)
    assert np.isfinite(losses).all() and (losses[:, -1] < losses[:, 0] - 0.1).all(), losses
    assert losses[2, 0] < losses[0, 0] - 0.1  # what was learned first is not lost on the way


# Runs.


@pytest.fixture(scope="module")
def causal(tiny_corpus, tmp_path_factory):
    """The run of a decoder, with its workdir; its seed is not that of the runs that begin with it."""
    return small.saved(small.experiment(tiny_corpus, "causal", seed=1), tmp_path_factory.mktemp("causal"))


def begun(corpus, kind: str, source, **changes):
    return small.experiment(corpus, kind, init_from=str(source), **changes)


def test_a_run_begins_with_another_and_resumes_without_it(tiny_corpus, causal, tmp_path, monkeypatch):
    """A decoder's body under masked language modelling; what the loop is given to go on from."""
    monkeypatch.setattr(Loop, "run", lambda self, state, start: (state, start))
    source = tmp_path / "source"
    shutil.copytree(causal.workdir, source)
    e, events = begun(tiny_corpus, "mlm", source, model=small.KINDS["causal"][1]), []
    run = Run.open(e)
    state, start = train(run, tmp_path / "run", on_event=events.append)
    assert start == 0 == int(state.step) and same(state.params["body"], causal.run.restore_params(source)["body"])
    assert events == [f"Begins with the weights of {source}, step 0: body taken; head fresh"]
    manifest = (source / "checkpoints" / "0" / "manifest.json").read_bytes()
    begins = {"folder": str(source), "step": 0, "sha256": hashlib.sha256(manifest).hexdigest()}
    assert json.loads((tmp_path / "run" / "begins.json").read_text()) == begins
    assert config_lib.from_json(read_config(tmp_path / "run")).init_from == str(source)

    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    later = state.replace(step=state.step + 4, params=jax.tree.map(lambda x: x + 1, state.params))
    checkpoints.save(4, later, config_json=to_json(e))
    checkpoints.close()
    shutil.rmtree(source)
    again, start = train(Run.open(e), tmp_path / "run", on_event=events.append)
    assert start == 4 and same(again, later) and len(events) == 1
    assert json.loads((tmp_path / "run" / "begins.json").read_text()) == begins
    with pytest.raises(UserError, match="no such folder"):  # but a fresh start wants it
        train(Run.open(e), tmp_path / "other", on_event=events.append)


def test_the_average_is_taken_where_one_is_kept(tiny_corpus, causal, tmp_path):
    e = small.experiment(tiny_corpus, "causal", ema=0.5)
    state, _ = Checkpoints(causal.workdir / "checkpoints").restore(causal.run.abstract)
    state = state.replace(ema=jax.tree.map(lambda x: 2 * x + 1, state.params))
    (tmp_path / "config.json").write_text(to_json(e))
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(3, state, config_json=to_json(e))
    checkpoints.close()
    begins = Run.open(begun(tiny_corpus, "causal", tmp_path, ema=0.9)).init()
    assert same(begins.params, state.ema) and same(begins.ema, state.ema) and not same(state.ema, state.params)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(begins.opt_state))


def test_a_mesh_begins_with_the_same(tiny_corpus, causal):
    """Also where the source's table does not divide as this run's does, and has to grow."""
    model = chz.replace(small.KINDS["causal"][1], vocab_multiple=1)
    e = begun(tiny_corpus, "causal", causal.workdir, objective=Hybrid(), model=model)
    one = Run.open(chz.replace(e, mesh=MeshConfig(data=1)), jax.devices()[:1]).init()
    run = Run.open(chz.replace(e, mesh=MeshConfig(data=2, fsdp=2, tensor=2)))
    mesh = run.init()
    assert same(one.params, mesh.params)
    for leaf, sharding in zip(jax.tree.leaves(mesh.params), jax.tree.leaves(run.shardings.params)):
        assert leaf.sharding == sharding
    assert any(not sharding.is_fully_replicated for sharding in jax.tree.leaves(run.shardings.params))


def test_what_does_not_fit_is_said_before_anything_compiles(tiny_corpus, causal, tmp_path, monkeypatch):
    source = causal.workdir
    monkeypatch.setattr(jax, "jit", lambda *_, **__: pytest.fail("compiles"))

    def message(source, **changes) -> str:
        with pytest.raises(UserError) as caught:
            train(Run.open(begun(tiny_corpus, "causal", source, **changes)), tmp_path / "run", on_event=lambda _: None)
        return str(caught.value)

    assert message(tmp_path / "nowhere") == f"init_from={tmp_path / 'nowhere'}: there is no such folder"
    assert "neither the workdir of a run nor a Hugging Face folder" in message(tmp_path)
    (tmp_path / "config.json").write_text(to_json(tiny_corpus))
    assert "config.json is of a Corpus, not of a run" in message(tmp_path)
    shutil.copy(source / "config.json", tmp_path)
    assert "no checkpoint" in message(tmp_path)
    wide = message(source, model=chz.replace(small.KINDS["causal"][1], width=64))
    assert "init_from=" in wide and "[2, 32, 64]" not in wide.splitlines()[0]
    assert "body/norm/scale: float32[32] there, float32[64] here" in wide or "and " in wide
    assert "model.width: 32 there, 64 here" in wide


def test_another_tokenizer_is_refused(tiny_corpus, causal, tmp_path):
    """As far as the source's corpus is still there to tell."""
    shutil.copytree(causal.workdir, tmp_path / "source")
    other = tmp_path / "corpus"
    other.mkdir()
    kept = tmp_path / "source" / "config.json"
    kept.write_text(kept.read_text().replace(tiny_corpus.path, str(other)))
    e = begun(tiny_corpus, "causal", tmp_path / "source")
    assert str(Run.open(e).beginning).endswith("; tokenizer not checked")  # nothing is known
    fewer = chz.replace(e, objective=MLM(), model=chz.replace(e.model, vocab_multiple=7))
    assert "tokenizer not checked" in str(Run.open(fewer).beginning)  # ours pads otherwise, theirs is as it was
    text = kept.read_text()
    kept.write_text(re.sub(r'"model.vocab_multiple": \d+', '"model.vocab_multiple": 7', text))
    with pytest.raises(UserError, match=r"has a table of \d+ rows, and the corpus's tokenizer makes one of \d+"):
        Run.open(e).beginning
    kept.write_text(text)
    (other / "metadata.json").write_text(json.dumps({"tokenizer": {"sha256": "0" * 64}}))
    with pytest.raises(
        UserError, match="was trained with the tokenizer in .*corpus, and the corpus is prepared with another"
    ):
        Run.open(e).beginning


def test_a_config_that_shapes_do_not_show_is_told(tiny_corpus, causal):
    model = chz.replace(small.KINDS["causal"][1], epsilon=1e-3, dropout=0.3)
    run = Run.open(begun(tiny_corpus, "causal", causal.workdir, model=model))
    assert str(run.beginning).endswith("body taken; model.epsilon: 1e-05 there, 0.001 here")


def test_a_dry_run_says_what_would_be_taken(tiny_corpus, causal, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pretrain, "summarize", lambda run: None)  # which compiles
    monkeypatch.setattr(show, "summary", lambda summary: None)
    (tmp_path / "config.json").write_text(to_json(begun(tiny_corpus, "causal", causal.workdir)))
    assert small.call(pretrain, f"--workdir={tmp_path}", "--dry-run") == 0
    assert "body taken" in capsys.readouterr().out
    assert not (tmp_path / "checkpoints").exists()
    monkeypatch.setattr(pretrain, "summarize", lambda run: pytest.fail("compiles"))
    assert small.call(pretrain, f"--workdir={tmp_path}", "--dry-run", "model.width=64") == 2
    assert "does not fit: it is of another model" in capsys.readouterr().err


def test_a_dry_run_of_what_goes_on_does_not_ask_for_the_source(tiny_corpus, causal, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pretrain, "summarize", lambda run: None)
    monkeypatch.setattr(show, "summary", lambda summary: None)
    shutil.copytree(causal.workdir, tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text(to_json(begun(tiny_corpus, "causal", tmp_path / "gone")))
    assert small.call(pretrain, f"--workdir={tmp_path / 'run'}", "--dry-run") == 0
    assert "Begins with" not in capsys.readouterr().out
    (tmp_path / "new").mkdir()
    shutil.copy(tmp_path / "run" / "config.json", tmp_path / "new")
    assert small.call(pretrain, f"--workdir={tmp_path / 'new'}", "--dry-run") == 2
    assert "no such folder" in capsys.readouterr().err
