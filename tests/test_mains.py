"""The experiment mains, run in this process as from a shell: what they print and write."""

import io
import json
import math
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import evaluate, generate, pretrain, replay
from ptjax.checkpoint import Checkpoints
from ptjax.data.pipeline import Pipeline, batch_at
from ptjax.logging import read_metrics
from ptjax.metrics.baseline import unigram_entropy
from tests.small import call

ROOT = Path(__file__).parents[1]
SHRUNK = (
    "model.layers=1",
    "model.width=32",
    "model.heads=2",
    "model.hidden=64",
    "model.unroll=False",
    "data.length=32",
    "data.batch_size=16",
    "steps=2",
    "logging.every=1",
)


@pytest.fixture
def said(capfd):
    """said(module, *arguments): what a main prints; it has to succeed."""

    def said(module, *arguments: str) -> str:
        code = call(module, *arguments)
        captured = capfd.readouterr()
        assert code == 0, captured.err
        return captured.out

    return said


def stdlib(tiny_corpus, workdir) -> tuple[str, ...]:
    """configs/mlm_stdlib.py, shrunk, on the tiny corpus."""
    corpus = ("data.corpus.source=None", f"data.corpus.path={tiny_corpus.path}")
    return (f"--config={ROOT / 'configs/mlm_stdlib.py'}", f"--workdir={workdir}", *SHRUNK, *corpus)


# pretrain


@pytest.mark.parametrize("layout", ["jit", "pmap"])
def test_dry_run_trains_nothing(said, trained, tmp_path, tiny_corpus, layout):
    out = said(pretrain, *stdlib(tiny_corpus, tmp_path / "run"), "--dry-run", f"mesh.layout={layout}")
    assert not (tmp_path / "run").exists()
    table = dict(re.findall(r"^([\w.]+|in all) +([\d,]+) *$", out[out.index("parameters") :], re.MULTILINE))
    table = {name: int(number.replace(",", "")) for name, number in table.items()}
    total = table.pop("in all")
    width, hidden, vocab = 32, 64, 512
    layer = 4 * (width**2 + width) + 2 * width * hidden + hidden + width + 4 * width
    expected = {
        "body.embed": (vocab + 64 + 2) * width,
        "body.embed_norm": 2 * width,
        "body.layers": layer,
        "head": width**2 + width + 2 * width + vocab,
    }
    assert table == expected and total == sum(expected.values())
    assert "mesh  data=8 x fsdp=1 x expert=1 x tensor=1 on 8 x cpu, 1 process(es)" in out
    assert re.search(r"FLOPs a step  \d+\.\d G", out) and re.search(r"state \d+\.\d MiB", out)


def test_the_objective_is_one_word(said, tiny_corpus, tmp_path):
    """The masked recipe, causal; then the same command again has nothing left to do."""
    out = said(pretrain, *stdlib(tiny_corpus, tmp_path), "objective=CausalLM")
    assert re.search(r"objective +CausalLM", out) and "and how the model goes on" in out
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == [1, 2] and abs(lines[0]["loss"] - math.log(400)) < 0.5
    assert (tmp_path / "loss.png").stat().st_size > 5000
    baseline = re.search(r"validation nll ([\d.]+) nats a token.* unigram entropy,? ([\d.]+)", out)
    scores = read_metrics(tmp_path, "validation")[-1]
    assert float(baseline[1]) == pytest.approx(scores["nll"], abs=1e-3)
    again = said(pretrain, f"--workdir={tmp_path}")  # the config is the workdir's
    assert "nothing left to train" in again and "and how the model goes on" in again


def test_an_ended_run_shows_its_masks(said, trained):
    workdir, data = trained("mlm").workdir, trained("mlm").run.experiment.data
    out = said(pretrain, f"--workdir={workdir}")
    assert len(re.findall(r"^    (('.*?'|\".*?\") [\d.]+%( +|$)){5}$", out, re.MULTILINE)) == 5
    assert f"{unigram_entropy(data):.3f}" in out
    assert str(workdir / "checkpoints") in out and str(workdir / "metrics.jsonl") in out


def test_unigram_entropy(trained):
    pipeline = Pipeline(trained("mlm").run.experiment.data, "validation", shuffle=False)
    tokens = np.concatenate([batch["tokens"].ravel() for batch in pipeline.iterate()])
    _, counts = np.unique(tokens[~np.isin(tokens, pipeline.vocab.special_ids)], return_counts=True)
    expected = -sum(n / counts.sum() * math.log(n / counts.sum()) for n in counts)
    assert unigram_entropy(pipeline.data) == pytest.approx(expected)


# evaluate


def test_bits_a_byte_of_a_causal_model(said, trained):
    """By hand: softmax of all logits, and the bytes of the text that was predicted."""
    run, workdir = trained("causal").run, trained("causal").workdir
    found = json.loads(said(evaluate, f"--workdir={workdir}", "--json"))
    params = jax.device_get(run.restore_params(workdir))
    vocab, tokenizer = run.learner.vocab, run.tokenizer
    pipeline = Pipeline(run.experiment.data, "validation", shuffle=False)
    nll, tokens, text_bytes, right = 0.0, 0, 0, 0
    pieces = tokenizer.pieces(range(vocab.size))
    inputs = lambda batch: run.experiment.objective.inputs(batch, vocab)
    forward = jax.jit(lambda params, batch: run.learner.net.apply({"params": params}, inputs(batch)))
    for batch in pipeline.iterate():
        logits = np.asarray(forward(params, batch), np.float64)[:, :, : vocab.size]
        logp = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        for row, scores in zip(batch["tokens"], logp):
            for at in range(len(row) - 1):
                if row[at] == vocab.eos_id or vocab.pad_id in (row[at], row[at + 1]):
                    continue  # the first token of a document is not predicted
                nll -= scores[at, row[at + 1]]
                right += scores[at].argmax() == row[at + 1]
                tokens += 1
                if row[at + 1] != vocab.eos_id:
                    piece = pieces[row[at + 1]]
                    text_bytes += 1 if re.fullmatch("<0x..>", piece) else len(piece.replace("\u2581", " ").encode())
    assert found["nll"] == pytest.approx(nll / tokens, rel=1e-5)
    assert found["loss"] == found["nll"]
    assert found["accuracy"] == pytest.approx(right / tokens)
    assert found["perplexity"] == pytest.approx(math.exp(nll / tokens), rel=1e-5)
    assert found["bits_per_byte"] == pytest.approx(nll / math.log(2) / text_bytes, rel=1e-5)
    table = said(evaluate, f"--workdir={workdir}")
    assert re.search(rf"bits per byte +{found['bits_per_byte']:.4f}", table)
    assert re.search(rf"^perplexity +{found['perplexity']:.4f}", table, re.MULTILINE)


def test_bits_a_byte_of_a_masked_model(said, trained):
    """From its nll, and the masked tokens and their bytes."""
    run, workdir = trained("mlm").run, trained("mlm").workdir
    found = json.loads(said(evaluate, f"--workdir={workdir}", "--json"))
    vocab = run.learner.vocab
    tokens, text_bytes, ask = 0.0, 0.0, jax.jit(run.learner.corrupted_for_validation)
    for batch in Pipeline(run.experiment.data, "validation", shuffle=False).iterate():
        asked = jax.device_get(ask(batch))
        original = np.take_along_axis(batch["tokens"], asked["positions"], axis=1)
        tokens += asked["weights"].sum()
        text_bytes += (vocab.piece_bytes[original] * asked["weights"]).sum()
    assert tokens > 100
    assert found["bits_per_byte"] == pytest.approx(found["nll"] / math.log(2) * tokens / text_bytes, rel=1e-5)
    assert found["loss"] == pytest.approx(read_metrics(workdir, "validation")[-1]["loss"], rel=1e-5)
    table = said(evaluate, f"--workdir={workdir}")
    assert re.search(rf"pseudo perplexity +{found['pseudo_perplexity']:.4f}", table)


def test_evaluate_a_step_and_a_split(said, trained):
    workdir = trained("mlm").workdir
    score = lambda *arguments: json.loads(said(evaluate, f"--workdir={workdir}", "--json", *arguments))["loss"]
    assert score("--step=3") > score("--step=10") + 0.02
    assert score("--split=train", "--batches=3") != score("--split=train", "--batches=1")
    assert score("--batches=1000") == score()  # there are not so many


# generate


def test_masks_are_filled(said, trained, monkeypatch):
    workdir = f"--workdir={trained('mlm').workdir}"
    out = said(generate, workdir, "--text=the <mask> of a <mask>.", "--text=<mask>", "--top=3")
    blocks = out.split("<mask>\n")
    assert "the <mask> of a <mask>." in out
    guesses = re.findall(r"^    (('.*?'|\".*?\") [\d.]+%( +|$)){3}$", out, re.MULTILINE)
    assert len(guesses) == 3 and len(blocks) == 2
    monkeypatch.setattr("sys.stdin", io.StringIO("one <mask>\ntwo <mask>\n"))
    out = said(generate, workdir, "--text=-")
    assert "one <mask>" in out and "two <mask>" in out


def test_text_is_continued(said, trained):
    arguments = (
        f"--workdir={trained('causal').workdir}",
        "--text=The value",
        "--text=A",
        "--samples=3",
        "--tokens=10",
        "--temperature=0.9",
        "--top-p=0.9",
        "--top-k=50",
    )
    out = said(generate, *arguments)
    assert out.count("---\n") == 6 and out.count("The value") >= 3
    assert len(set(out.split("---\n")[:3])) == 3
    assert out == said(generate, *arguments, "--seed=0") != said(generate, *arguments, "--seed=1")
    assert said(generate, *arguments, "--step=3") != out


# replay


def test_replay_writes_what_training_saw(said, trained):
    run, workdir = trained("mlm").run, trained("mlm").workdir
    checkpoints = Checkpoints(workdir / "checkpoints").steps()
    out = said(replay, f"--workdir={workdir}", "--step=7")
    logged = read_metrics(workdir)[6]["loss"]
    assert float(re.search(r"step 7: loss ([\d.]+) \(as training saw it\)", out)[1]) == pytest.approx(logged, rel=1e-5)
    arrays = np.load(workdir / "replay/step-7.npz")
    batch = batch_at(run.pipeline, 6)
    assert (arrays["index"] == batch["index"]).all() and (arrays["original"] == batch["tokens"]).all()
    assert arrays["row_loss"].shape == (16,)
    text = (workdir / "replay/step-7.txt").read_text()
    for index, loss in zip(batch["index"], arrays["row_loss"]):
        assert f"--- example {index}, loss {loss:.4f}\n" in text
    masked = (arrays["tokens"] == run.learner.vocab.mask_id).sum()
    assert masked > 30 and text.count("><mask>]") == masked
    # With what was shown struck out, it is the text.
    first = text.partition("\n--- example")[2].partition("\n")[2].partition("\n\n--- example")[0]
    pieces = run.tokenizer.decode
    row, shown = arrays["original"][0], arrays["tokens"][0]
    chosen = arrays["positions"][0][arrays["weights"][0] > 0]
    for at in chosen:
        if row[at] == shown[at]:
            assert f"[{pieces([row[at]])}]" in first
        elif shown[at] != run.learner.vocab.mask_id:
            assert f">{pieces([shown[at]])}]" in first
    assert "under the parameters of step 6" in said(replay, f"--workdir={workdir}", "--step=8", "--checkpoint=6")
    assert "under the parameters of step 0" in said(replay, f"--workdir={workdir}", "--step=8", "--checkpoint=0")
    assert Checkpoints(workdir / "checkpoints").steps() == checkpoints == [3, 6, 9, 10]


def test_replay_of_a_causal_step_is_plain_text(said, trained):
    run, workdir = trained("causal").run, trained("causal").workdir
    said(replay, f"--workdir={workdir}", "--step=1")
    text = (workdir / "replay/step-1.txt").read_text()
    vocab = run.learner.vocab
    for row in batch_at(run.pipeline, 0)["tokens"]:
        documents = np.split(row, np.flatnonzero(row == vocab.eos_id) + 1)
        for document in documents:
            plain = run.tokenizer.decode(document[~np.isin(document, [vocab.eos_id, vocab.pad_id])])
            assert plain in text
    assert (batch_at(run.pipeline, 0)["tokens"] == vocab.eos_id).sum() == text.count("<end>")
