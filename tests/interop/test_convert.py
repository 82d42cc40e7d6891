"""experiments.convert: what goes in comes out, and what cannot go leaves nothing behind."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from experiments import convert, embed, generate
from ptjax.checkpoint import Checkpoints, Saved, check_workdir, read_config
from ptjax.config import UserError, from_json, to_json
from ptjax.data.tokenizers import open_tokenizer
from ptjax.interop.export import direction, export_workdir, on_disk
from ptjax.interop.huggingface import load
from ptjax.interop.published import Published
from ptjax.interop.tensors import WEIGHTS
from ptjax.models import BERT, GPT, T5, RoBERTa
from ptjax.objectives import MLM, NSP, RTD, SOP, CausalLM, Hybrid, PrefixLM, SpanCorruption
from ptjax.train import Run
from tests.interop.folders import published_folder
from tests.interop.test_huggingface import loaded
from tests.small import SIZE, call, experiment, same


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return published_folder(tmp_path_factory.mktemp("published") / "bert")


@pytest.fixture(scope="module")
def imported(published, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("imported") / "bert"
    assert call(convert, f"--from={published}", f"--workdir={workdir}", base=None, workdir=False) == 0
    return workdir


@pytest.fixture
def said(capfd):
    """said(*arguments): what the main prints. With `fails`: what it complains of, and that it is the user's to mend."""

    def said(*arguments, fails=False):
        capfd.readouterr()
        code = call(convert, *arguments, base=None, workdir=False)
        out, err = capfd.readouterr()
        assert code == (2 if fails else 0), err
        return err if fails else out

    return said


def test_in_and_out_again(published, imported, said, tmp_path):
    out = said(f"--from={imported}", f"--to={tmp_path / 'out'}")
    assert "BertForPreTraining" in out and "tokenizer.json" in out and "left out" not in out and "new" not in out
    before, after = (load_file(folder / WEIGHTS) for folder in (published, tmp_path / "out"))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    theirs, ours = (open_tokenizer(folder) for folder in (published, tmp_path / "out"))
    assert np.array_equal(theirs.encode("the cat"), ours.encode("the cat")) and theirs.vocab.size == ours.vocab.size
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["pad_token_id"] == theirs.vocab.pad_id and "bos_token_id" not in config
    again = said(f"--from={tmp_path / 'out'}", f"--workdir={tmp_path / 'again'}")
    assert "family        bert" in again and "objective     NSP" in again
    trees = [
        jax.tree.map(np.asarray, on_disk(Saved.find(run / "checkpoints"))) for run in (imported, tmp_path / "again")
    ]
    assert same(*trees)


def run_of(corpus, kind, to, params=None, steps=(1,), extra={}, **changes):
    """A workdir of a small run that has saved `params`, or else random ones at each of `steps`; and the last ones."""
    run = Run.open(experiment(corpus, kind, **changes))
    text = to_json(run.experiment)
    to.mkdir()
    (to / "config.json").write_text(text)
    checkpoints = Checkpoints(to / "checkpoints", asynchronous=False)
    for step in steps:
        rng = np.random.default_rng(step)
        fresh = lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32)
        saved = params or jax.tree.map(fresh, run.abstract.params)
        checkpoints.save(step, {"params": saved} | extra, config_json=text)
    checkpoints.close()
    return run, saved


def unpadded(params):
    """Without the padding of the vocabulary, which has 400 pieces."""
    return jax.tree.map(lambda x: x[:400] if x.shape[0] == 512 else x, jax.device_get(params))


@pytest.mark.parametrize("kind, architecture", [("mlm", "BertForMaskedLM"), ("causal", "GPT2LMHeadModel")])
def test_a_run_of_ptjax_s_own_is_published(kind, architecture, tiny_corpus, said, tmp_path):
    """With its SentencePiece tokenizer, as tokenizer.json."""
    run, params = run_of(tiny_corpus, kind, tmp_path / "run", steps=(3, 6))
    out = said(f"--from={tmp_path / 'run'}", f"--to={tmp_path / 'out'}")
    assert architecture in out and "step          6" in out
    found = load(tmp_path / "out")
    assert found.rows == 400 and same(unpadded(found.params), unpadded(params))
    assert said(f"--from={tmp_path / 'run'}", f"--to={tmp_path / 'out'}", "--step=3")
    assert not same(unpadded(load(tmp_path / "out").params), unpadded(params))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json"} <= names
    text = "The quick brown fox, and what it jumps over."
    assert np.array_equal(open_tokenizer(tmp_path / "out").encode(text), run.tokenizer.encode(text))


def test_a_padding_from_which_transformers_would_count_otherwise_is_refused(tiny_corpus, said, tmp_path):
    """RoBERTa's positions are numbered from pad_token_id there; ptjax's own tokenizer pads with 0."""
    run_of(tiny_corpus, "mlm", tmp_path / "run", model=RoBERTa(**SIZE))
    for only in ([], ["--only=body"]):
        message = said(f"--from={tmp_path / 'run'}", f"--to={tmp_path / 'out'}", *only, fails=True)
        assert "has pad_token_id=0, and transformers numbers RoBERTa's positions from pad_token_id" in message
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_half_precision_and_parts(imported, said, tmp_path):
    out = said(f"--from={imported}", f"--to={tmp_path / 'out'}", "--dtype=bfloat16", "--only=body")
    assert "of bfloat16" in out and "pooler (drawn by transformers)" in out
    assert "left out      head, next_sentence, pooler" in out
    whole = load(tmp_path / "out", only=("body",)).params
    assert whole.keys() == {"body"}
    rounded = jax.tree.map(lambda x: np.asarray(x, "bfloat16").astype(np.float32), loaded("bert").params["body"])
    assert same(whole["body"], rounded)


def test_a_head_that_transformers_lacks_is_named_and_the_body_can_be_written(tiny_corpus, said, tmp_path):
    """GPT-2 pre-trained as a masked language model: there is no such class."""
    _, params = run_of(tiny_corpus, "causal", tmp_path / "run", objective=MLM())
    message = said(f"--from={tmp_path / 'run'}", f"--to={tmp_path / 'out'}", fails=True)
    assert "gpt2 has no place for these leaves" in message and "--only=body" in message
    assert all(f"head/{name}" in message for name in ("bias", "dense/bias", "dense/kernel", "norm/bias", "norm/scale"))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    out = said(f"--from={tmp_path / 'run'}", f"--to={tmp_path / 'out'}", "--only=body")
    assert "left out      head" in out
    assert "note: trained to read in both directions; transformers' gpt2 looks left only" in out
    again = said(f"--from={tmp_path / 'out'}", f"--workdir={tmp_path / 'again'}")
    assert "objective     MLM" in again and from_json(read_config(tmp_path / "again")).objective == MLM()
    assert same(unpadded(load(tmp_path / "out").params), unpadded({"body": params["body"]}))


@pytest.mark.parametrize(
    "model, objective, said",
    [
        (BERT(), CausalLM(), "trained to look left only; transformers' bert reads in both directions"),
        (BERT(), Hybrid(), "to look left only and to read in both directions; transformers' bert always reads in both"),
        (GPT(), PrefixLM(), "left only and to read in both directions; transformers' gpt2 looks left only"),
        (GPT(), NSP(), "trained to read in both directions; transformers' gpt2 looks left only"),
        *((model, objective, "") for model in (BERT(), RoBERTa()) for objective in (MLM(), SOP(), RTD())),
        (GPT(), CausalLM(z_loss=0.1), ""),
        (T5(), SpanCorruption(), ""),
    ],
)
def test_where_transformers_looks_otherwise_it_is_said(model, objective, said):
    note = direction(model, objective)
    assert said in note and bool(said) == bool(note)


def test_the_average_is_what_is_written(tiny_corpus, tmp_path):
    _, params = run_of(tiny_corpus, "causal", tmp_path / "a")
    zeros = jax.tree.map(lambda x: x * 0, params)
    run_of(tiny_corpus, "causal", tmp_path / "b", zeros, steps=(3,), extra={"ema": params}, ema=0.5)
    assert export_workdir(tmp_path / "b", tmp_path / "out").step == 3
    assert same(unpadded(load(tmp_path / "out").params), unpadded(params))


def test_ids_of_the_objective_s_own_are_written_if_asked_for(tiny_corpus, said, tmp_path):
    """Sentinels of span corruption, behind the 400 of the tokenizer."""
    run, _ = run_of(tiny_corpus, "causal", tmp_path / "run", objective=SpanCorruption())
    extra = run.learner.vocab.extra
    out = said(f"--from={tmp_path / 'run'}", f"--to={tmp_path / 'out'}")
    assert f"left out      {extra} ids of the vocabulary (see --added)" in out
    assert load(tmp_path / "out").rows == 400
    assert "left out" not in said(f"--from={tmp_path / 'run'}", f"--to={tmp_path / 'out'}", "--added")
    assert load(tmp_path / "out").rows == 400 + extra > 400


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "Say where to: --workdir=DIR"),
        (["--to={}/a", "--workdir={}/b"], "Say where to"),
        (["--workdir={}/b", "--dtype=bfloat16"], "they go with --to=DIR"),
        (["--workdir={}/b", "--step=3"], "they go with --to=DIR"),
        (["--to={}/a", "--dtype=int8"], "int8"),
        (["--to={}/a", "--step=77"], "no checkpoint of step 77"),
        (["--to={}/a", "--only=tail"], "there is no tail here: parts are body"),
        (["--to={}/a", "model.width=3"], "no config here to set keys of"),
        (["--to={}/full"], "holds thesis, not written by ptjax"),
        (["--workdir={}/full"], "is not empty|no tokenizer|neither"),
    ],
)
def test_mistakes_leave_nothing(arguments, words, imported, said, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis").write_text("all of it")
    message = said(f"--from={imported}", *[argument.format(tmp_path) for argument in arguments], fails=True)
    assert any(word in message for word in words.split("|")), message
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "thesis"]


def test_what_is_no_run_is_not_written(published, said, tmp_path):
    message = said(f"--from={published}", f"--to={tmp_path / 'out'}", fails=True)
    assert f"{published} is a Hugging Face folder: `python -m experiments.convert --from={published} --work" in message
    assert "is not the workdir of a run" in said(f"--from={tmp_path}", f"--to={tmp_path / 'out'}", fails=True)
    assert not any(tmp_path.iterdir())


def test_a_run_and_a_published_model_are_told_apart(published, imported, said, tmp_path, capfd, monkeypatch):
    message = said(f"--from={imported}", f"--workdir={tmp_path / 'w'}", fails=True)
    assert f"{imported} is a run already: --to=FOLDER writes it out" in message
    for main in (generate, embed):
        assert call(main, f"--workdir={published}", "--text=a") == 2
        assert f"{published} is a Hugging Face folder: `python -m experiments.convert" in capfd.readouterr().err
    with pytest.raises(UserError, match="is a Hugging Face folder"):  # and is not overwritten
        check_workdir(published, MLM())
    assert json.loads((published / "config.json").read_text())["model_type"] == "bert"
    monkeypatch.setenv("HOME", str(published.parent))
    assert "NSP" in said("--from=~/bert", f"--workdir={tmp_path / 'w'}")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "BertForPreTraining" in said("--from=~/w", "--to=~/out") and (tmp_path / "out").is_dir()


def test_what_comes_meanwhile_stays(published, said, tmp_path, monkeypatch):
    def params(self, *_):
        (tmp_path / "w").mkdir()
        (tmp_path / "w" / "thesis").write_text("all of it")
        return {"body": {"a": jnp.zeros(3)}}

    monkeypatch.setattr(Published, "params", params)
    assert "w is not empty" in said(f"--from={published}", f"--workdir={tmp_path / 'w'}", fails=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["w", "thesis"]


def test_one_process_converts(published, said, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert "one process" in said(f"--from={published}", f"--workdir={tmp_path / 'w'}", fails=True)
    assert not any(tmp_path.iterdir())


def test_a_machine_without_a_cpu_backend_reads_on_its_device(imported, monkeypatch):
    """As JAX_PLATFORMS=cuda has it."""
    real = jax.local_devices

    def local_devices(*_, backend=None):
        if backend == "cpu":
            raise RuntimeError("Unknown backend cpu")
        return real()

    leaf = on_disk(Saved.find(imported / "checkpoints"))["body"]["embed"]["tokens"]
    expected = np.asarray(leaf)
    monkeypatch.setattr(jax, "local_devices", local_devices)
    assert expected.any() and np.array_equal(np.asarray(leaf), expected)


def test_a_failed_import_leaves_nothing(published, said, tmp_path):
    shutil.copytree(published, tmp_path / "bad")
    with open(tmp_path / "bad" / WEIGHTS, "r+b") as file:
        file.truncate(3000)
    message = said(f"--from={tmp_path / 'bad'}", f"--workdir={tmp_path / 'run'}", fails=True)
    assert f"{tmp_path / 'bad' / WEIGHTS} is damaged" in message
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


def test_a_damaged_checkpoint_is_not_written(imported, said, tmp_path):
    shutil.copytree(imported, tmp_path / "run")
    (largest,) = sorted((tmp_path / "run" / "checkpoints").rglob("d/*"), key=lambda path: path.stat().st_size)[-1:]
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 255
    largest.write_bytes(content)
    message = said(f"--from={tmp_path / 'run'}", f"--to={tmp_path / 'out'}", fails=True)
    assert "the contents of" in message and "have changed" in message
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
