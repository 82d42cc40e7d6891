"""Comparisons as folders: what is run, in which order, what is not run again, and what the report says."""

import dataclasses
import json
import shutil
from pathlib import Path

import chz
import pytest

from experiments import jobs as jobs_main
from experiments.compare import run as run_waves
from ptjax.compare import Arm
from ptjax.compare.budget import Measured, digest, measure, read_costs
from ptjax.compare.report import report
from ptjax.compare.study import Study
from ptjax.config import UserError, from_json
from ptjax.data.examples import JsonExamples
from ptjax.data.manifest import hash_file
from ptjax.files import write_json
from ptjax.finetune import Recipe
from ptjax.jobs import Commands
from ptjax.leaderboard import Suite
from ptjax.logging import read_metrics
from ptjax.summary import count
from ptjax.tasks import SequenceClassification
from ptjax.train import Checkpointing, Run, train
from tests import fake_finetune
from tests.compare.small import comparison
from tests.small import experiment, rewound

CAUSAL = ("objective=CausalLM",)
SKILLS = {"mlm": 0.7, "causal": 0.9, "then": 0.72, "more": 0.7}


@dataclasses.dataclass
class Here:
    """Runs jobs in this process: pre-trainings for real, fine-tunings by rule. fails: names of jobs that do."""

    fails: tuple[str, ...] = ()
    ran: list[str] = dataclasses.field(default_factory=list)

    def __call__(self, jobs, ended, watch):
        for job in jobs:
            self.ran.append(job.name)
            watch([job])
            problem = "it was not to be" if job.name in self.fails else None
            if problem is None:
                self.do(job.command[0], Path(job.command[1].removeprefix("--workdir=")))
            ended(job, problem)

    @staticmethod
    def do(kind: str, folder: Path):
        if kind == "pretrain":
            train(Run.open(from_json((folder / "config.json").read_text())), folder, on_event=lambda _: None)
            seed = int(folder.name.rpartition("seed")[2]) if "seed" in folder.name else 0
            rule = {"skill": SKILLS[folder.parent.name] + 0.01 * seed} if folder.parent.name in SKILLS else {}
            (folder / "rule.json").write_text(json.dumps(rule))
        else:
            fake_finetune.main(folder)
            for cell in folder.glob("cells/*/cell.json"):  # what it began from, which the stand-in does not write
                source = Path(json.loads((folder / "config.json").read_text())["init_from"])
                step = max(int(path.name) for path in (source / "checkpoints").iterdir() if path.name.isdecimal())
                manifest = source / "checkpoints" / str(step) / "manifest.json"
                write_json(
                    cell, json.loads(cell.read_text()) | {"source": {"step": step, "sha256": hash_file(manifest)}}
                )


def run(study: Study, **how) -> list[str]:
    """Names of the jobs that ran, in their order."""
    here = Here(**how)
    study.check()
    study.claim()
    known = {a.name: Measured(digest(study.comparison.changed(a)), 9, (1e9,), (0.1,)) for a in study.comparison.arms}
    write_json(study.workdir / "costs.json", {name: dataclasses.asdict(m) for name, m in known.items()})
    run_waves(study, here)
    return here.ran


@pytest.fixture(autouse=True, scope="module")
def commands():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs_main, "COMMANDS", Commands(("pretrain",), ("finetune",), ("measure",)))
        yield


def tone(folder: Path, **recipe) -> Suite:
    folder.mkdir(exist_ok=True)
    for split in ("train", "validation", "test"):
        labels = ["bad" if i % 3 else "good" for i in range(90)]
        lines = [{"id": f"{split}-{i}", "text": f"text {i}", "label": label} for i, label in enumerate(labels)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    files = {split: str(folder / f"{split}.jsonl") for split in ("train", "validation", "test")}
    task = SequenceClassification(name="tone", examples=JsonExamples(**files), length=32)
    return Suite(name="small", tasks=(task,), recipe=Recipe(**recipe), resamples=200)


@pytest.fixture(scope="module")
def done(tiny_corpus, tmp_path_factory):
    """A comparison of two arms and one that goes on from the second, as it stands when all is done: (study, names of
    what ran, report)."""
    folder = tmp_path_factory.mktemp("compare")
    c = comparison(
        tiny_corpus,
        base=experiment(tiny_corpus, checkpoint=Checkpointing(every=3, minutes=None, keep=9, best=None)),
        arms=(Arm(name="mlm"), Arm(name="causal", changes=CAUSAL), Arm(name="then", after="causal", at=0.5)),
        suite=tone(folder / "data"),
    )
    study = Study.open(c, folder / "work")
    ran = run(study)
    return study, ran, report(study)


def copied(study: Study, to: Path, **changes) -> Study:
    """The same work in a folder that a test may change."""
    shutil.copytree(study.workdir, to)
    return Study.open(chz.replace(study.comparison, **changes), to)


def lasting(contents: dict) -> dict:
    """A report without times."""
    text = json.dumps(contents)
    without = json.loads(text, object_hook=lambda d: {k: v for k, v in d.items() if "seconds" not in k and k != "date"})
    return without


def test_every_arm_is_trained_and_judged_once_parents_first(done):
    study, ran, _ = done
    assert len(ran) == len(set(ran)) == 12
    pretrained = [name for name in ran if not name.endswith("/tone")]
    assert pretrained.index("causal/rate1-seed1") < pretrained.index("then/rate1-seed0")
    assert ran.index("then/rate1-seed0") < ran.index("then/rate1-seed0/tone")
    steps = {
        name: [r["step"] for r in read_metrics(study.workdir / name / "rate1-seed0")] for name in ("causal", "then")
    }
    assert steps == {"causal": list(range(1, 11)), "then": list(range(6, 11))}  # the beginning is not trained twice


def test_the_report_says_what_was_found(done):
    study, _, found = done
    assert found["complete"] and found["left"] == {"runs": 0, "cells": 0} and not found["failed"]
    arms = {arm["name"]: arm for arm in found["arms"]}
    assert arms["causal"]["score"]["mean"] == pytest.approx(sum(arms["causal"]["score"]["seeds"]) / 2)
    assert arms["causal"]["difference"] == [["objective", "CausalLM", "MLM"], *arms["causal"]["difference"][1:]]
    assert arms["then"]["after"] == {"arm": "causal", "step": 5, "share": 0.5}
    pairs = {(pair["a"], pair["b"]): pair for pair in found["differences"]}
    assert set(pairs) == {("mlm", "causal"), ("mlm", "then"), ("causal", "then")}
    for (a, b), pair in pairs.items():
        assert pair["mean"] == pytest.approx(arms[a]["score"]["mean"] - arms[b]["score"]["mean"])
        assert pair["paired"] and pair["p_holm"] >= pair["p"] and pair["seeds"] == [2, 2]
    [pair] = found["pretraining_differences"]
    assert (pair["a"], pair["b"], pair["metric"]) == ("mlm", "then", "bits_per_byte")
    means = [arms[name]["pretraining"]["mean"] for name in ("mlm", "then")]
    assert pair["mean"] == pytest.approx(means[0] - means[1]) and pair["paired"]
    # two arms that are asked the same question share a chart, a third does not
    charts = [{line["arm"] for line in chart["lines"]} for chart in found["curves"]]
    assert sorted(map(sorted, charts)) == [["causal"], ["mlm", "then"]]
    assert json.loads((study.workdir / "comparison.json").read_text()) == found
    page, markdown = ((study.workdir / f"comparison.{kind}").read_text() for kind in ("html", "md"))
    for text in (page, markdown):
        assert "Which learns more?" in text and "causal" in text


def test_the_report_proves_what_is_paired(done):
    _, _, found = done
    items = {item["what"]: item for item in found["pairing"]["items"]}
    assert found["pairing"]["proven"] and {"tokenizer", "data", "batches", "initial body", "code"} <= set(items)
    assert "the first 10 steps of each with another's" in items["batches"]["checked"]
    for what in ("tokenizer", "data", "batches", "code"):
        assert items[what]["status"] == "equal", items[what]


def test_nothing_is_left_to_run_again(done):
    assert run(done[0]) == []


def test_after_a_kill_only_what_was_lost_is_run_again_and_the_report_is_the_same(done, tmp_path):
    """One run was in its seventh step with a checkpoint at six, one fine-tuning was half written, one not begun."""
    study = copied(done[0], tmp_path / "work")
    killed = study.workdir / "causal" / "rate1-seed1"
    shutil.rmtree(killed)
    rewound(done[0].workdir / "causal" / "rate1-seed1", 6, killed)
    shutil.rmtree(study.workdir / "mlm" / "rate1-seed0" / "tasks" / "tone" / "cells")
    shutil.rmtree(killed / "tasks")
    ran = run(study)
    assert sorted(ran) == ["causal/rate1-seed1", "causal/rate1-seed1/tone", "mlm/rate1-seed0/tone"]
    assert [r["step"] for r in read_metrics(killed)] == list(range(1, 11))
    assert lasting(report(study)) == lasting(done[2])


def test_an_arm_that_is_added_later_trains_only_itself(done, tmp_path):
    more = Arm(name="more", changes=("objective.rate=0.4",), seeds=(0,))
    study = copied(done[0], tmp_path / "work", arms=(*done[0].comparison.arms, more))
    ran = run(study)
    assert ran == ["more/rate1-seed0", "more/rate1-seed0/tone"]
    found = report(study)
    assert len(found["differences"]) == 6 and found["complete"]
    assert lasting(found)["arms"][:3] == lasting(done[2])["arms"]


def test_a_seed_that_is_added_later_is_the_only_one_that_is_run(done, tmp_path):
    study = copied(done[0], tmp_path / "work", seeds=(0, 1, 2), arms=done[0].comparison.arms[:1])
    assert sorted(run(study)) == ["mlm/rate1-seed2", "mlm/rate1-seed2/tone"]


def test_a_branch_that_is_added_later_runs_the_beginning_again_and_no_more(done, tmp_path):
    """From a step of which the parent kept nothing."""
    arms = (*done[0].comparison.arms[:2], Arm(name="then", after="causal", at=0.8))
    study = copied(done[0], tmp_path / "work", arms=arms, seeds=(0,))
    shutil.rmtree(study.workdir / "then")
    ran = run(study)
    assert ran == ["causal/rate1-seed0/until-8", "then/rate1-seed0", "then/rate1-seed0/tone"]
    assert [r["step"] for r in read_metrics(study.workdir / "then" / "rate1-seed0")] == [9, 10]
    assert not (study.workdir / "causal" / "rate1-seed0" / "until-8" / "checkpoints" / "10").exists()


@pytest.mark.parametrize(
    "changes, problem",
    [
        (dict(amount=20 * 512.0), "mlm/rate1-seed0 holds a run of another experiment:\n  steps: 10 there, 20 here"),
        (dict(arms=(Arm(name="mlm", changes=CAUSAL),)), "objective: MLM there, CausalLM here"),
    ],
)
def test_another_comparison_in_the_same_folder_is_refused(done, tmp_path, changes, problem):
    study = copied(done[0], tmp_path / "work", **changes)
    with pytest.raises(UserError, match=problem.replace("/", ".")):
        run(study)


def test_scores_of_weights_that_have_changed_are_refused(done, tmp_path):
    study = copied(done[0], tmp_path / "work")
    manifest = study.workdir / "mlm" / "rate1-seed0" / "checkpoints" / "10" / "manifest.json"
    manifest.write_text(manifest.read_text() + " ")
    with pytest.raises(UserError, match="other weights.*delete .*tone"):
        report(study)


def test_a_folder_of_something_else_is_refused(done, tmp_path):
    with pytest.raises(UserError, match="another kind of run .Experiment."):
        Study.open(done[0].comparison, done[0].workdir / "mlm" / "rate1-seed0")


def test_the_rate_of_the_grid_with_the_lowest_loss_is_used(tiny_corpus, tmp_path):
    """Of MLM from 3e-3 and from nearly nothing."""
    c = comparison(tiny_corpus, arms=(Arm(name="mlm"),), rates=(1e-6, 1.0), amount=4 * 512.0)
    study = Study.open(c, tmp_path)
    assert study.selected(c.arms[0]) is None
    ran = run(study)
    assert sorted(ran[:2]) == ["mlm/rate1-seed0", "mlm/rate1e-06-seed0"] and ran[2:] == ["mlm/rate1-seed1"]
    found = report(study)
    [arm] = found["arms"]
    losses = {row["rate"]: row["loss"] for row in arm["rate"]["grid"]}
    assert arm["rate"]["selected"] == 1.0 and losses[1.0] < losses[1e-6] and arm["rate"]["edge"]
    assert [one["seed"] for one in arm["runs"]] == [0, 1] and found["differences"] == []


def test_a_branch_is_of_the_state_that_its_parent_has_now(done, tmp_path):
    study = copied(done[0], tmp_path / "work")
    manifest = study.workdir / "causal" / "rate1-seed1" / "checkpoints" / "5" / "manifest.json"
    manifest.write_text(manifest.read_text() + " ")
    with pytest.raises(UserError, match="then/rate1-seed1 goes on from another state than step 5 of .*delete"):
        run(study)


def test_what_is_left_is_not_run_with_other_code(done, tmp_path, monkeypatch):
    study = copied(done[0], tmp_path / "work", arms=(*done[0].comparison.arms, Arm(name="more")))
    monkeypatch.setattr("ptjax.provenance._own_code", lambda: "f" * 64)
    with pytest.raises(UserError, match="The code of ptjax is not the one"):
        run(study)
    finished = copied(done[0], tmp_path / "again")
    assert run(finished) == [] and report(finished)["complete"]  # code that only looks at runs may change


def test_a_refused_comparison_leaves_the_folder_s_own(done, tmp_path):
    study = copied(done[0], tmp_path / "work", amount=20 * 512.0)
    before = (study.workdir / "config.json").read_bytes()
    with pytest.raises(UserError):
        run(study)
    assert (study.workdir / "config.json").read_bytes() == before


def test_a_rate_that_diverged_is_out_and_is_not_tried_again(tiny_corpus, tmp_path):
    """Its log says so; a loss of null is one that was not finite."""
    c = comparison(tiny_corpus, arms=(Arm(name="mlm"),), rates=(0.5, 1.0), amount=4 * 512.0)
    study = Study(c, tmp_path)
    write_json(tmp_path / "costs.json", {"mlm": dataclasses.asdict(Measured(digest(c.base), 9, (1.0,), (1.0,)))})
    for run_, event in zip(study.grid(c.arms[0]), ("Step 3 is not finite", "Resuming")):
        run_.claim()
        lines = [
            {"kind": "event", "step": 3, "text": event},
            {"kind": "validation", "step": 4, "time": 0, "loss": None},
        ]
        (run_.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    low, high = study.grid(c.arms[0])
    assert low.has_diverged() and not high.has_diverged()
    assert study.selected(c.arms[0]) is None and [piece.name for piece in study.next()] == [high.name]
    (high.folder / "checkpoints" / "4").mkdir(parents=True)
    (high.folder / "checkpoints" / "4" / "manifest.json").write_text("{}")
    assert high.is_done() and study.selected(c.arms[0]) is None  # all of it diverged
    lines[1]["loss"] = 6.5
    (high.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert study.selected(c.arms[0]) == 1.0


def test_what_fails_stops_what_needs_it_and_nothing_else(done, tmp_path):
    study = copied(done[0], tmp_path / "work")
    for arm in ("causal", "then"):
        shutil.rmtree(study.workdir / arm / "rate1-seed0")
    shutil.rmtree(study.workdir / "mlm" / "rate1-seed0" / "tasks")
    ran = run(study, fails=("causal/rate1-seed0",))
    assert sorted(ran) == ["causal/rate1-seed0", "mlm/rate1-seed0/tone"]
    found = report(study)
    assert [failure["error"] for failure in found["failed"]] == ["it was not to be"] and not found["complete"]
    arms = {arm["name"]: arm for arm in found["arms"]}
    assert [one["seed"] for one in arms["causal"]["runs"]] == [1]
    assert [piece.name for piece in study.next()] == ["causal/rate1-seed0"]  # the same command tries it again


def test_steps_are_measured_once_and_an_arm_that_is_added_in_the_first_one_s_seconds(
    tiny_corpus, tmp_path, monkeypatch
):
    monkeypatch.setattr("ptjax.compare.budget.SECONDS", 0.01)
    monkeypatch.setattr("ptjax.compare.budget.ROUNDS", 1)
    c = comparison(tiny_corpus, arms=(Arm(name="mlm"),))
    measure(c, tmp_path)
    first = read_costs(tmp_path)["mlm"]
    formula = Study(c, tmp_path).budget.arms["mlm"].step.flops
    assert first.seconds[0] > 0 and 1.0 < first.flops[0] / formula < 3.0  # norms, softmax and the optimizer besides
    assert first.parameters == count(Run.open(c.base).abstract.params)
    costs = json.loads((tmp_path / "costs.json").read_text())
    costs["mlm"]["seconds"] = [1000.0]
    write_json(tmp_path / "costs.json", costs)
    both = comparison(tiny_corpus)
    measure(both, tmp_path)
    later = read_costs(tmp_path)
    assert later["mlm"].seconds == (1000.0,) and later["causal"].seconds[0] > 50
