"""The proof of pairing: honest runs pass, doctored ones are refused with the place named."""

import dataclasses
import json
import shutil
from pathlib import Path

import chz
import jax
import jax.numpy as jnp
import pytest

from ptjax import provenance
from ptjax.compare.pairing import Ran, prove
from ptjax.config import UserError
from ptjax.data.pipeline import Pipeline
from ptjax.data.prepare import prepare
from ptjax.learner import Learner
from ptjax.models import BERT
from ptjax.objectives import MLM, RTD, CausalLM, SpanCorruption
from ptjax.partition import CompiledStep
from ptjax.provenance import Provenance
from ptjax.train import Run, train
from tests.small import SIZE, experiment

MODEL = BERT(**SIZE | dict(layers=1, width=16, hidden=32))
STEPS = 6


def only_counts(run: Run, step: int) -> CompiledStep:
    """A training step that learns nothing, so that nothing is compiled for it: records look at other things."""
    one = jnp.ones(())
    metrics = {"loss": (one, one), "update_norm": (one, one)}
    return CompiledStep(lambda state, batch: (state.replace(step=state.step + 1), metrics), lambda batch: batch)


class Bench:
    """Runs of arms, really begun and fed, in one folder."""

    def __init__(self, corpus, folder: Path):
        self.corpus, self.folder = corpus, folder

    def run(self, arm: str, seed: int = 0, corpus=None, folder: Path | None = None, **changes) -> Ran:
        e = experiment(corpus or self.corpus, **dict(model=MODEL, steps=STEPS, seed=seed) | changes)
        ran = Ran(arm, 1.0, seed, e, folder or self.folder / f"{arm}-{seed}")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Run, "train_step", only_counts)
            patch.setattr(Run, "evaluate", lambda *_, **__: {"loss": 1.0})
            train(Run.open(e, jax.devices()[:1]), ran.folder, on_event=str)
        return ran


@pytest.fixture(scope="module")
def bench(tiny_corpus, tmp_path_factory):
    return Bench(tiny_corpus, tmp_path_factory.mktemp("pairing"))


@pytest.fixture(scope="module")
def honest(bench):
    """Two arms of two seeds."""
    return [bench.run(arm, seed, objective=o) for seed in (0, 1) for arm, o in (("mlm", MLM()), ("causal", CausalLM()))]


def items(ran, **options) -> dict[str, dict]:
    found = prove(ran, **options)
    json.dumps(found, allow_nan=False)
    return {item["what"]: item for item in found}


def test_honest_arms_are_paired(honest):
    found = items(honest)
    equal = ("tokenizer", "data", "batches", "initial body", "code", "software")
    for what in equal:
        assert found[what]["status"] == "equal"
        [group] = found[what]["groups"]
        assert group["arms"] == ["mlm", "causal"] and group["value"]
    assert found["batches"]["checked"] == "2 arms x 2 seeds, the first 6 steps of each with another's"
    assert found["initial heads"]["groups"][0]["arms"] == ["mlm"]  # a causal model has no head of its own
    assert "jax" in found["software"]["groups"][0]["value"]


def test_runs_that_have_not_begun_prove_nothing(honest, bench):
    later = dataclasses.replace(honest[0], seed=9, folder=bench.folder / "later")
    assert prove([later]) == [] and prove([*honest, later]) == prove(honest)


# Doctored runs.


def test_another_order_of_one_batch(honest, bench, monkeypatch, tmp_path):
    row_ids = Pipeline.row_ids
    swapped = lambda self, start, stop: row_ids(self, start, stop)[:: -1 if start == 3 * 16 else 1]
    monkeypatch.setattr(Pipeline, "row_ids", swapped)
    doctored = bench.run("causal", 1, objective=CausalLM(), folder=tmp_path / "causal")
    with pytest.raises(UserError) as caught:
        prove([*honest[:3], doctored])
    assert "mlm (rate 1, seed 1) and causal (rate 1, seed 1) saw different rows in step 4: " in str(caught.value)
    for ran in (honest[2], doctored):
        assert str(ran.folder) in str(caught.value)
        assert (ran.folder / "batches.txt").read_text().splitlines()[3] in str(caught.value)


def test_another_initial_leaf(honest, bench, monkeypatch, tmp_path):
    init_state = Learner.init_state

    def flipped(self, seed, **options):
        state = init_state(self, seed, **options)
        body = state.params["body"]
        embed = body["embed"] | {"positions": body["embed"]["positions"].at[3, 3].multiply(1 + 2**-20)}
        return state.replace(params=state.params | {"body": body | {"embed": embed}})

    monkeypatch.setattr(Learner, "init_state", flipped)
    doctored = bench.run("causal", 1, objective=CausalLM(), folder=tmp_path / "causal")
    message = (
        r"mlm \(rate 1, seed 1\) and causal \(rate 1, seed 1\) began with different parameters: body/embed/positions: "
    )
    with pytest.raises(UserError, match=message):
        prove([*honest[:3], doctored])


def test_another_tokenizer_and_other_data(honest, bench, tiny_corpus, tmp_path):
    """The prepared folder was replaced between two arms."""
    folder = tmp_path / "prepared"
    shutil.copytree(tiny_corpus.path, folder)
    corpus = chz.replace(tiny_corpus, path=str(folder), source=None)
    first = bench.run("mlm", corpus=corpus, folder=tmp_path / "mlm")
    shutil.rmtree(folder)
    prepare(chz.replace(tiny_corpus, path=str(folder), tokenizer=chz.replace(tiny_corpus.tokenizer, vocab_size=390)))
    second = bench.run("causal", corpus=corpus, objective=CausalLM(), folder=tmp_path / "causal")
    with pytest.raises(
        UserError, match=r"and causal \(rate 1, seed 0\) have different tokenizers: (\w{32}) and (?!\1)\w{32}, "
    ):
        prove([first, second])
    record = Provenance.read(second.folder)
    dataclasses.replace(record, tokenizer=Provenance.read(first.folder).tokenizer).write(second.folder)
    with pytest.raises(UserError, match="have different data, by the hashes of the prepared files"):
        prove([first, second])
    # a resume with them is refused as well
    with pytest.raises(UserError, match="began with another tokenizer"):
        provenance.Record.resume(Run.open(first.experiment, jax.devices()[:1]), first.folder, 3)


def test_other_code(honest, bench, monkeypatch, tmp_path):
    monkeypatch.setattr(provenance, "_own_code", lambda: "f" * 64)
    doctored = bench.run("causal", 1, objective=CausalLM(), folder=tmp_path / "causal")
    with pytest.raises(
        UserError, match=r"were trained by different code, that of ptjax: \w{32} and f{32},.*set allow=code"
    ):
        prove([*honest[:3], doctored])
    found = items([*honest[:3], doctored], allow=("code",))
    assert found["code"]["status"] == "allowed"
    assert [group["arms"] for group in found["code"]["groups"]] == [["mlm", "causal"], ["causal"]]


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("batches.txt", lambda text: text[:-17], "batches.txt ends at step 5, and step 6 is done: delete"),
        (
            "provenance.json",
            lambda text: text.replace('"from_step": 0', '"from_step": 2'),
            "begins behind step 2: delete",
        ),
        ("provenance.json", lambda text: text[:-4], "provenance.json is damaged"),
    ],
)
def test_records_that_prove_nothing(honest, tmp_path, name, change, message):
    shutil.copytree(honest[0].folder, tmp_path / "run")
    (tmp_path / "run" / name).write_text(change((tmp_path / "run" / name).read_text()))
    with pytest.raises(UserError, match=message):
        prove([dataclasses.replace(honest[0], folder=tmp_path / "run")])


# What configs declare.


def test_what_differs_because_configs_differ_is_declared(honest, bench, tmp_path):
    wider = bench.run("wider", objective=MLM(), model=chz.replace(MODEL, hidden=64), folder=tmp_path / "wider")
    found = items([honest[0], wider])
    assert found["initial body"]["status"] == "declared" and "model.hidden" in found["initial body"]["about"]
    assert found["batches"]["status"] == found["data"]["status"] == "equal"
    data = chz.replace(honest[0].experiment.data, batch_size=8)
    narrow = bench.run("narrow", objective=MLM(), data=data, steps=4, folder=tmp_path / "narrow")
    found = items([honest[0], narrow])
    assert found["batches"]["status"] == "declared" and "data.batch_size" in found["batches"]["about"]
    assert found["initial body"]["status"] == found["initial heads"]["status"] == found["data"]["status"] == "equal"


def test_a_table_with_rows_of_the_objective(honest, bench, tmp_path):
    """All else of the body begins bitwise the same, whatever the heads."""
    spans = bench.run("spans", objective=SpanCorruption(sentinels=120), folder=tmp_path / "spans")
    found = items([honest[0], spans])
    assert found["initial body"]["about"].endswith("differ in the shape of body/embed/tokens")
    rtd = bench.run("rtd", objective=RTD(generator=0.5), folder=tmp_path / "rtd")
    assert items([*honest, rtd])["initial body"]["status"] == "equal"


def test_other_seeds_are_not_held_against_each_other(honest):
    """The same arm twice."""
    found = items([honest[0], dataclasses.replace(honest[2], arm="again")])
    for what in ("batches", "initial body"):
        assert found[what]["status"] == "declared" and found[what]["about"].endswith("differ in their seeds")
    assert found["tokenizer"]["status"] == found["data"]["status"] == found["code"]["status"] == "equal"


def test_a_branch_is_held_to_its_lineage(honest, bench, tmp_path):
    """It has the batches of its parent up to where it leaves, and its own from there."""
    data = chz.replace(honest[0].experiment.data, window=64, order="contiguous")
    keep = chz.replace(honest[0].experiment.checkpoint, keep_steps=(2,))
    other = bench.run("other", data=data, steps=4, checkpoint=keep, folder=tmp_path / "other")
    branch = {"branch_from": f"{other.folder}@2"}
    child = bench.run("child", objective=CausalLM(), folder=tmp_path / "child", **branch)
    found = items([*honest[:2], child, other])
    assert found["batches"]["status"] == "declared" and "data.order" in found["batches"]["about"]
    lines = {ran.arm: (ran.folder / "batches.txt").read_text().splitlines() for ran in (honest[0], child, other)}
    assert lines["child"] == lines["other"][:2] + lines["mlm"][2:] and lines["other"][:2] != lines["mlm"][:2]
    (child.folder / "batches.txt").write_text("\n".join(lines["child"][:4] + ["0" * 16] + lines["child"][5:]))
    with pytest.raises(UserError, match="saw different rows in step 5"):
        prove([*honest[:2], child])
