"""Leaderboards: who is ranked where, and what happens to runs that crash, stop or change.

Nothing is trained here but in the last test: a script stands in for fine-tuning.
"""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import chz
import pytest

from experiments import jobs as jobs_main
from experiments import leaderboard as leaderboard_main
from ptjax.config import UserError, from_json, override, to_json
from ptjax.data.examples import JsonExamples
from ptjax.finetune import Recipe
from ptjax.jobs import Commands, locked, run_here, run_on_slurm
from ptjax.leaderboard import Suite
from ptjax.leaderboard.board import rank
from ptjax.leaderboard.entry import Entry, Result, Run
from ptjax.leaderboard.leaderboard import Leaderboard
from ptjax.leaderboard.references import References
from ptjax.leaderboard.submission import Submission
from ptjax.tasks import SequenceClassification
from tests.small import call

ROOT = Path(__file__).parents[1]
FAKE = (sys.executable, "-S", str(ROOT / "tests" / "fake_finetune.py"))
COUNT = 60  # examples of a split


@pytest.fixture
def data(tmp_path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for task in ("tone", "topic"):
        for split in ("train", "validation", "test"):
            lines = [{"id": f"{task}-{split}-{i}", "text": f"text {i}", "label": "good"} for i in range(COUNT)]
            for line in lines[1::3]:
                line["label"] = "bad"
            write(folder / f"{task}-{split}.jsonl", lines)
    return folder


def write(path: Path, lines: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def classification(data: Path, name: str) -> SequenceClassification:
    files = {split: str(data / f"{name}-{split}.jsonl") for split in ("train", "validation", "test")}
    return SequenceClassification(name=name, examples=JsonExamples(**files), length=32)


def suite(data: Path, **changes) -> Suite:
    settings = dict(
        name="small",
        tasks=(classification(data, "tone"), classification(data, "topic")),
        recipe=Recipe(seeds=(0, 1)),
        resamples=200,
    )
    return Suite(**(settings | changes))


def model(folder: Path, **rule) -> Path:
    """What the stand-in begins from."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text('{"model_type": "fake", "hidden_size": %d}' % len(folder.name))
    (folder / "rule.json").write_text(json.dumps(rule))
    return folder


@pytest.fixture
def run(tmp_path, data, monkeypatch):
    """run(suite, 'NAME=DIR', ...) -> (exit code, leaderboard.json), as from a shell."""
    monkeypatch.setattr(jobs_main, "COMMANDS", Commands(finetune=FAKE))
    monkeypatch.setattr(jobs_main.jax.config, "update", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    workdir = tmp_path / "board"

    def run(config: Suite, *arguments: str) -> tuple[int, dict]:
        (tmp_path / "suite.json").write_text(to_json(config))
        text = "from pathlib import Path\nfrom ptjax.config import from_json\n"
        (tmp_path / "suite_config.py").write_text(
            text + "def get_config():\n    return from_json(Path('suite.json').read_text())\n"
        )
        submissions = [f"--submission={a}" if not a.startswith("--") and "=" in a else a for a in arguments]
        code = call(
            leaderboard_main,
            "--config=suite_config.py",
            f"--workdir={workdir}",
            *submissions,
            base=Suite,
            uses_jax=False,
        )
        found = workdir / "leaderboard.json"
        return code, json.loads(found.read_text()) if found.exists() else {}

    run.workdir = workdir
    return run


def started(folder: Path) -> list[str]:
    """Units that were run from a model."""
    path = folder / "started.txt"
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


# The suite.


def test_a_suite_is_a_value_whose_tasks_are_changed_by_place(data):
    config = suite(data)
    changed = override(config, ["tasks.0.length=64", "tasks.1.limit=10", "recipe.epochs=1", "recipe.seeds=0,1,2"])
    assert (changed.tasks[0].length, changed.tasks[1].limit, changed.recipe.epochs) == (64, 10, 1.0)
    assert changed.tasks[1].length == 32
    assert from_json(to_json(changed)) == changed


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"tasks": ()}, "at least one"),
        ({"resamples": 0}, "at least 1"),
        ({"confidence": 1.0}, "share in"),
    ],
)
def test_a_suite_that_makes_no_sense_is_refused(data, changes, message):
    with pytest.raises(Exception, match=message):
        suite(data, **changes)


def test_names_of_tasks_are_told_apart(data):
    with pytest.raises(Exception, match="two are named tone"):
        suite(data, tasks=(classification(data, "tone"), classification(data, "tone")))


@pytest.mark.parametrize("text", ["mlm", "mlm=", "=runs/mlm", "a/b=runs", "-x=runs", "mlm=:fresh"])
def test_submissions_that_cannot_be_read_are_refused(text):
    with pytest.raises(UserError, match="submission"):
        Submission.parse(text)


def test_a_submission_is_written_in_a_word():
    assert Submission.parse("a-1=runs/x=y:fresh") == Submission(name="a-1", path="runs/x=y", fresh=True)


# The ranking.


def ranking(data: Path, skills: dict[str, list[list[float]]], **changes) -> dict[str, dict]:
    """Submissions of a ranking by name. skills: of each, for each task that it has, the share of right answers of each
    of its runs; those who are better are right wherever the others are."""
    config = suite(data, **changes)
    references = {task.name: References.read(task) for task in config.tasks}
    entries = []
    for name, tasks in skills.items():
        results = {}
        for task, shares in zip(config.tasks, tasks):
            examples, runs = references[task.name].examples, []
            for share in shares:
                labels = [x["label"] if i < share * COUNT else "neither" for i, x in enumerate(examples)]
                answers = [{"id": x["id"], "prediction": label} for x, label in zip(examples, labels)]
                runs.append(Run.scored(answers, references[task.name]))
            if runs:
                results[task.name] = Result(runs)
        entries.append(Entry(name, results))
    board = rank(config, references, entries)
    json.dumps(board, allow_nan=False)
    assert [s["name"] for s in board["submissions"]] == [
        s["name"] for s in sorted(board["submissions"], key=lambda s: s["rank"])
    ]
    return {submission["name"]: submission for submission in board["submissions"]}


def test_a_score_is_the_mean_over_tasks_of_the_mean_over_runs(data):
    found = ranking(data, {"one": [[0.5, 0.7], [0.9]], "two": [[0.3], [0.3]]})
    assert list(found) == ["one", "two"]
    assert found["one"]["score"]["mean"] == pytest.approx((0.6 + 0.9) / 2)
    tone = found["one"]["tasks"]["tone"]
    assert tone["seeds"] == pytest.approx([0.5, 0.7])
    assert tone["spread"] == pytest.approx(0.2 / 2**0.5)
    assert tone["low"] < tone["mean"] < tone["high"]
    assert tone["metrics"]["accuracy"] == pytest.approx(0.6)
    assert found["one"]["tasks"]["topic"]["spread"] is None


def test_what_is_inside_the_noise_shares_a_rank(data):
    found = ranking(data, {"far": [[0.1], [0.1]], "b": [[0.9], [0.88]], "a": [[0.9], [0.9]], "same": [[0.9], [0.9]]})
    assert {name: s["rank"] for name, s in found.items()} == {"a": 1, "same": 1, "b": 1, "far": 4}
    assert found["a"]["versus_next"]["name"] == "same" and found["a"]["versus_next"]["tie"]
    assert found["a"]["versus_next"]["difference"] == 0
    assert not found["b"]["versus_next"]["tie"] and found["b"]["versus_next"]["p"] < 0.05
    assert found["far"]["versus_next"] is None


def test_a_chain_of_ties_carries_no_farther_than_the_noise(data):
    """Each is close to the next, the last is far from the first."""
    skills = {f"s{n}": [[1 - n / COUNT], [1 - n / COUNT]] for n in range(6)}
    found = ranking(data, skills)
    ranks = [submission["rank"] for submission in found.values()]
    assert ranks[0] == ranks[1] == 1 and ranks[-1] > 1
    assert all(s["versus_next"]["tie"] for s in found.values() if s["versus_next"])


def test_who_lacks_a_task_has_no_score_and_stands_behind(data):
    found = ranking(data, {"half": [[1.0], []], "whole": [[0.1], [0.1]], "none": [[], []]})
    assert list(found) == ["whole", "half", "none"]
    assert found["half"]["rank"] == found["none"]["rank"] == 2
    assert found["half"]["score"] is None and found["half"]["missing"] == ["topic"] and not found["half"]["complete"]
    assert found["half"]["tasks"]["tone"]["mean"] == 1.0
    assert found["whole"]["versus_next"] is None


def test_a_ranking_of_nothing_is_one(data):
    assert ranking(data, {"none": [[], []]})["none"]["missing"] == ["tone", "topic"]


def test_hidden_test_labels_leave_the_validation_split(data):
    path = data / "tone-test.jsonl"
    write(path, [{k: v for k, v in line.items() if k != "label"} for line in read(path)])
    references = References.read(classification(data, "tone"))
    assert references.split == "validation" and references.counts["test"] == COUNT
    lines = read(path)
    lines[3]["label"] = "good"
    write(path, lines)
    with pytest.raises(UserError, match="no label"):
        References.read(classification(data, "tone"))


# Runs.


def test_submissions_are_fine_tuned_and_ranked(run, data, tmp_path, capsys):
    models = f"good={model(tmp_path / 'm', skill=0.95)}", f"scratch={tmp_path / 'm'}:fresh"
    code, board = run(suite(data), *models, "--jobs=2")
    assert code == 0
    out = capsys.readouterr().out
    assert "good/tone" in out and "scratch" in out and "leaderboard.html" in out
    good, scratch = board["submissions"]
    assert (good["name"], good["rank"], scratch["rank"]) == ("good", 1, 2)
    assert good["score"]["mean"] > scratch["score"]["mean"] + 0.2
    assert len(good["tasks"]["tone"]["seeds"]) == 2 and len(good["tasks"]["tone"]["grid"]) == 2
    assert good["tasks"]["tone"]["learning_rate"] == 5e-5
    assert good["tasks"]["tone"]["curves"][0]["loss"] == [[1, 2.0], [2, 1.0]]
    assert good["cost"] == {
        "parameters": 1000,
        "learning_parameters": 10,
        "flops": 4e6,
        "tokens": 400,
        "seconds": pytest.approx(6.0),
    }
    assert ["fresh", "True", "False"] in scratch["difference"] and good["difference"] == []
    assert board["suite"]["tasks"][0] | {"kind": None} == {
        "name": "tone",
        "kind": None,
        "metric": "accuracy",
        "split": "test",
        "examples": {"train": COUNT, "validation": COUNT, "test": COUNT},
    }
    assert board["failed"] == []
    page = (run.workdir / "leaderboard.html").read_text()
    assert "scratch" in page and "<html" in page
    handed = read(run.workdir / "good" / "predictions" / "tone" / "1.jsonl")
    assert [set(line) for line in handed] == [{"id", "prediction"}] * COUNT
    assert handed[0]["id"] == "tone-test-0"


def test_what_is_done_is_not_run_again_and_a_board_grows(run, data, tmp_path):
    a, b = model(tmp_path / "a", skill=0.9), model(tmp_path / "b", skill=0.8)
    run(suite(data), f"a={a}")
    assert len(started(a)) == 2
    shutil.rmtree(run.workdir / "a" / "topic" / "cells" / "lr5e-05-seed1")
    code, board = run(suite(data), f"b={b}")
    assert code == 0 and started(a)[2:] == ["a/topic"] and len(started(b)) == 2
    assert [s["name"] for s in board["submissions"]] == ["a", "b"]
    run(suite(data))
    assert len(started(a)) == 3 and len(started(b)) == 2
    code, board = run(suite(data, recipe=Recipe(seeds=(0, 1, 2))))
    assert len(started(a)) == 5 and len(board["submissions"][0]["tasks"]["tone"]["seeds"]) == 3


def test_the_rate_is_the_one_that_validates_best(run, data, tmp_path):
    rates = (1e-5, 1e-4)
    code, board = run(suite(data, recipe=Recipe(learning_rates=rates)), f"a={model(tmp_path / 'a', skill=0.9)}")
    [a] = board["submissions"]
    assert a["tasks"]["tone"]["learning_rate"] == 1e-4
    assert [row[:2] for row in a["tasks"]["tone"]["grid"]] == [[1e-5, 0], [1e-4, 0]]


def test_other_values_in_a_workdir_with_results_are_refused_by_name(run, data, tmp_path, capsys):
    a = f"a={model(tmp_path / 'a')}"
    run(suite(data), a)
    code, _ = run(suite(data, recipe=Recipe(seeds=(0, 1), epochs=7.0)), a)
    assert code == 2
    assert "recipe.epochs: 3.0 there, 7.0 here" in capsys.readouterr().err
    code, _ = run(suite(data), f"a={model(tmp_path / 'other')}")
    said = capsys.readouterr().err
    assert code == 2 and f"submission a is {tmp_path / 'a'} on this board, not {tmp_path / 'other'}" in said
    code, _ = run(suite(data), f"{a}:fresh")
    assert code == 2 and f"not {tmp_path / 'a'}:fresh" in capsys.readouterr().err
    assert run(suite(data, resamples=300, confidence=0.9))[0] == 0  # which decide nothing of a run


def test_a_crash_is_told_and_stops_nothing_else(run, data, tmp_path, capsys):
    arguments = f"ok={model(tmp_path / 'ok')}", f"sick={model(tmp_path / 'sick', crash=[1])}"
    arguments += (f"dead={model(tmp_path / 'dead', die=3)}",)
    code, board = run(suite(data), *arguments)
    assert code == 2 and "4 run(s) failed" in capsys.readouterr().err
    by_name = {s["name"]: s for s in board["submissions"]}
    assert by_name["ok"]["complete"] and len(by_name["sick"]["tasks"]["tone"]["seeds"]) == 1
    assert not by_name["dead"]["complete"] and by_name["dead"]["missing"] == ["tone", "topic"]
    failed = {(f["submission"], f["task"], f["cell"]): f["error"] for f in board["failed"]}
    assert set(failed) == {
        ("sick", "tone", "lr5e-05-seed1"),
        ("sick", "topic", "lr5e-05-seed1"),
        ("dead", "tone", None),
        ("dead", "topic", None),
    }
    assert "seed 1 diverged" in failed["sick", "tone", "lr5e-05-seed1"]
    assert "it ends at once" in failed["dead", "tone", None]
    _, again = run(suite(data), "--report-only")
    assert again["failed"] == board["failed"]
    model(tmp_path / "dead"), model(tmp_path / "sick")
    code, board = run(suite(data))
    assert code == 0 and board["failed"] == [] and len(started(tmp_path / "ok")) == 2


def test_what_is_still_to_come_is_missing(run, data, tmp_path):
    run(suite(data), f"a={model(tmp_path / 'a')}", f"b={model(tmp_path / 'b')}")
    shutil.rmtree(run.workdir / "a" / "tone" / "cells" / "lr5e-05-seed1")
    code, board = run(suite(data), "--report-only")
    assert code == 0 and board["submissions"][1]["missing"] == ["tone"] and board["failed"] == []


def test_damaged_results_of_one_do_not_hide_the_others(run, data, tmp_path):
    run(suite(data), f"a={model(tmp_path / 'a')}", f"b={model(tmp_path / 'b')}")
    path = run.workdir / "a" / "tone" / "cells" / "lr5e-05-seed0" / "test.jsonl"
    path.write_text(path.read_text()[:-20])
    code, board = run(suite(data), "--report-only")
    assert code == 2 and [s["name"] for s in board["submissions"]] == ["b", "a"]
    assert board["submissions"][1]["missing"] == ["tone"] and "cut off" in board["failed"][0]["error"]


@pytest.mark.parametrize(
    "name, text",
    [
        ("tone/cells/lr5e-05-seed0/cell.json", '{"learning_rate": 5e-05}'),
        ("tone/cells/lr5e-05-seed0/cell.json", "[]"),
        ("tone/cells/lr5e-05-seed0/cell.json", "\udc80"),
        ("tone/result.json", "{"),
        ("tone/config.json", "{"),
        ("tone/config.json", "\udc80"),
        ("submission.json", "{"),
        ("submission.json", "\udc80"),
    ],
)
def test_whatever_is_damaged_is_the_failure_of_one(run, data, tmp_path, name, text):
    tone = suite(data, tasks=(classification(data, "tone"),))
    run(tone, f"a={model(tmp_path / 'a')}", f"b={model(tmp_path / 'b')}")
    (run.workdir / "a" / name).write_bytes(text.encode(errors="surrogateescape"))
    code, board = run(tone, "--report-only")
    b, a = board["submissions"]
    assert code == 2 and b["name"] == "b" and b["complete"] and a["missing"] == ["tone"]
    assert [f["submission"] for f in board["failed"]] == ["a"]


def test_numbers_that_are_none_leave_json_that_others_read(run, data, tmp_path):
    run(suite(data), f"a={model(tmp_path / 'a')}")
    path = run.workdir / "a" / "tone" / "cells" / "lr5e-05-seed0" / "cell.json"
    path.write_text(path.read_text().replace('"loss": [[1, 2.0]', '"loss": [[1, NaN]'))
    run(suite(data), "--report-only")

    def refuse(name):
        raise AssertionError(name)

    board = json.loads((run.workdir / "leaderboard.json").read_text(), parse_constant=refuse)
    assert board["submissions"][0]["tasks"]["tone"]["curves"][0]["loss"] == [[1, None], [2, 1.0]]
    assert not list(run.workdir.rglob("*.tmp")) and not list(run.workdir.rglob("*.old"))


def test_who_lacks_a_run_of_the_selected_rate_is_incomplete(run, data, tmp_path, capsys):
    code, board = run(suite(data), f"a={model(tmp_path / 'a', crash=[1])}", f"b={model(tmp_path / 'b', skill=0.1)}")
    b, a = board["submissions"]
    assert code == 2 and (b["name"], b["complete"], a["complete"], a["score"]) == ("b", True, False, None)
    assert a["missing"] == [] and a["tasks"]["tone"]["runs"] == [1, 2] and b["tasks"]["tone"]["runs"] == [2, 2]
    assert "1 of 2 seeds" in capsys.readouterr().out


def test_predictions_to_hand_in_are_those_of_now(run, data, tmp_path):
    rates = Recipe(learning_rates=(1e-5,), seeds=(0, 1))
    run(suite(data, recipe=rates), f"a={model(tmp_path / 'a')}")
    folder = run.workdir / "a" / "predictions"
    (folder / "tone" / "7.jsonl").write_text("old")
    (folder / "gone").mkdir()
    (folder / "gone" / "0.jsonl").write_text("old")
    run(suite(data, recipe=Recipe(learning_rates=(1e-5,), seeds=(1,))))
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*.jsonl")) == [
        "tone/1.jsonl",
        "topic/1.jsonl",
    ]


def test_a_submission_that_is_gone_stops_nobody(run, data, tmp_path):
    team = {x["id"]: x["label"] for x in read(data / "tone-test.jsonl")}
    write(tmp_path / "team" / "tone.jsonl", [{"id": k, "prediction": v} for k, v in team.items()])
    done, begun = model(tmp_path / "done"), model(tmp_path / "begun")
    run(suite(data), f"done={done}", f"begun={begun}", f"team={tmp_path / 'team'}")
    shutil.rmtree(run.workdir / "begun" / "tone" / "cells" / "lr5e-05-seed0")
    for folder in ("done", "begun", "team"):
        shutil.rmtree(tmp_path / folder)
    code, board = run(suite(data), f"new={model(tmp_path / 'new')}")
    assert code == 2 and len(started(tmp_path / "new")) == 2
    by_name = {s["name"]: s for s in board["submissions"]}
    assert by_name["new"]["complete"] and by_name["done"]["complete"]
    assert by_name["begun"]["missing"] == ["tone"] and by_name["team"]["missing"] == ["tone", "topic"]
    assert {f["submission"]: "there is no folder" in f["error"] for f in board["failed"]} == {
        "begun": True,
        "team": True,
    }


def test_weights_that_have_changed_are_told(run, data, tmp_path, monkeypatch):
    run(suite(data), f"a={model(tmp_path / 'a')}")
    for path in (run.workdir / "a" / "tone").glob("cells/*/cell.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"source": {"step": 5, "sha256": "ab"}}))
    for now, failed in (({"step": 5, "sha256": "ab"}, []), ({"step": 6, "sha256": "cd"}, ["tone"]), (None, [])):
        monkeypatch.setattr(Submission, "weights", lambda self, now=now: now)
        code, board = run(suite(data), "--report-only")
        assert [f["task"] for f in board["failed"]] == failed and code == 2 * bool(failed)
        assert all("other weights now" in f["error"] for f in board["failed"])


def test_a_name_stays_a_models_or_that_of_predictions(run, data, tmp_path, capsys):
    lines = [{"id": x["id"], "prediction": x["label"]} for x in read(data / "tone-test.jsonl")]
    write(tmp_path / "team" / "tone.jsonl", lines)
    run(suite(data), f"a={model(tmp_path / 'a')}", f"team={tmp_path / 'team'}")
    for argument in (f"a={tmp_path / 'team'}", f"team={tmp_path / 'a'}"):
        assert run(suite(data), argument)[0] == 2
        assert "choose another name" in capsys.readouterr().err
    assert run(suite(data))[0] == 0


def test_a_folder_has_the_name_of_its_submission(run, data, tmp_path, capsys):
    run(suite(data), f"a={model(tmp_path / 'a')}")
    shutil.copytree(run.workdir / "a", run.workdir / "b")
    assert run(suite(data))[0] == 2
    assert "b holds the submission a" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["config.json", "notes.txt"])
def test_folders_of_others_are_left_alone(run, data, tmp_path, capsys, name):
    (run.workdir / "a").mkdir(parents=True)
    (run.workdir / "a" / name).write_text("{}")
    assert run(suite(data), f"a={model(tmp_path / 'model')}")[0] == 2
    assert "name the submission otherwise" in capsys.readouterr().err
    assert [path.name for path in (run.workdir / "a").iterdir()] == [name]


def test_a_run_that_goes_on_keeps_its_config(run, data, tmp_path, capsys):
    a = model(tmp_path / "a", wait=0)
    board = Leaderboard.open(suite(data), run.workdir, [Submission(name="a", path=str(a))])
    before = {unit.folder: (unit.folder / "config.json").read_bytes() for unit in board.units}
    more = suite(data, recipe=Recipe(seeds=(0, 1, 2)))
    with locked(board.units[0].folder / "log.txt"):
        assert run(more, "--report-only")[0] == 0
        assert {folder: (folder / "config.json").read_bytes() for folder in before} == before
        capsys.readouterr()
        assert run(more)[0] == 2
        assert "another process is still at it" in capsys.readouterr().err
        assert (board.units[0].folder / "config.json").read_bytes() == before[board.units[0].folder]
    assert run(more)[0] == 0


def test_a_report_claims_nothing(run, data, tmp_path):
    assert run(suite(data), f"a={model(tmp_path / 'a')}", "--report-only")[0] == 0
    assert [path.name for path in (run.workdir / "a").iterdir()] == ["submission.json"]


def test_limits_are_what_is_trained_on(data):
    task = chz.replace(classification(data, "tone"), limit=7)
    board = rank(suite(data, tasks=(task,)), {"tone": References.read(task)}, [])
    assert board["suite"]["tasks"][0]["examples"] == {"train": 7, "validation": COUNT, "test": COUNT}


def test_predictions_take_part_and_wrong_ones_are_told(run, data, tmp_path):
    for task in ("tone", "topic"):
        lines = [{"id": x["id"], "prediction": x["label"]} for x in read(data / f"{task}-test.jsonl")]
        write(tmp_path / "team" / f"{task}.jsonl", lines)
        write(tmp_path / "late" / f"{task}.jsonl", lines[1:])
    code, board = run(suite(data), f"a={model(tmp_path / 'a', skill=0.5)}", f"team={tmp_path / 'team'}")
    team = board["submissions"][0]
    assert code == 0 and team["name"] == "team" and team["score"]["mean"] == 1.0 and team["cost"] is None
    assert team["pretraining"] is None and team["config"] == {"path": str(tmp_path / "team")}
    code, board = run(suite(data), f"late={tmp_path / 'late'}")
    assert code == 2 and board["submissions"][-1]["name"] == "late"
    assert "1 of 60 examples have no prediction, as 'tone-test-0'" in board["failed"][0]["error"]


@pytest.mark.parametrize(
    "argument, message",
    [
        ("a=nowhere", "there is no folder nowhere"),
        ("a=data:fresh", "no body"),
        ("--jobs=0", "at least 1"),
        ("--slurm=,x=1", "the partition comes first"),
        ("--slurm=gpu,hours", "NAME=VALUE"),
        ("--report-only", "nothing has been submitted"),
    ],
)
def test_mistakes_are_told_in_a_line(run, data, argument, message, capsys, tmp_path):
    arguments = [argument]
    if argument.startswith("--slurm"):
        arguments.append(f"a={model(tmp_path / 'a')}")
    code, _ = run(suite(data), *arguments)
    assert code == 2
    assert message in capsys.readouterr().err


def test_examples_that_are_not_there_are_missed_before_anything_runs(run, data, tmp_path, capsys):
    (data / "topic-test.jsonl").unlink()
    code, _ = run(suite(data), f"a={model(tmp_path / 'a')}")
    assert code == 2 and "topic-test.jsonl" in capsys.readouterr().err and started(tmp_path / "a") == []


def test_the_workdir_of_another_run_is_left_alone(run, data, tmp_path, capsys):
    run.workdir.mkdir()
    (run.workdir / "config.json").write_text('{"": "ptjax.train:Experiment"}')
    code, _ = run(suite(data), f"a={model(tmp_path / 'a')}")
    assert code == 2 and "another kind of run (Experiment)" in capsys.readouterr().err
    assert not (run.workdir / "a").exists()


def test_a_runner_that_is_killed_goes_on_where_it_was(data, tmp_path):
    """After SIGKILL the same call runs only what was not done."""
    slow = model(tmp_path / "slow", wait=0.6)
    config = suite(data)
    script = tmp_path / "runner.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom ptjax.jobs import Job, run_here\n"
        "command, *names = sys.argv[1:]\n"
        "jobs = [Job(name, (*eval(command), f'--workdir={name}'), Path(name) / 'log.txt') for name in names]\n"
        "run_here(jobs, 1, lambda *_: None)\n"
    )
    board = Leaderboard.open(config, tmp_path / "board", [Submission(name="slow", path=str(slow))])
    folders = [str(unit.folder) for unit in board.units]
    runner = subprocess.Popen(
        [sys.executable, script, repr(FAKE), *folders], env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    first = board.units[0].folder / "cells" / "lr5e-05-seed0" / "cell.json"
    while not first.exists():
        time.sleep(0.02)
    runner.kill()
    runner.wait()
    pid = int((slow / "started.txt").read_text().split()[1])
    os.kill(pid, signal.SIGKILL)
    kept = first.stat().st_mtime_ns
    assert [len(unit.cells_done()) for unit in board.units] == [1, 0]
    model(tmp_path / "slow")
    subprocess.run(
        [sys.executable, script, repr(FAKE), *folders], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True
    )
    assert all(unit.is_done() for unit in board.units) and first.stat().st_mtime_ns == kept
    assert board.report()["submissions"][0]["complete"]


def test_runs_go_to_submitit_as_they_go_here(data, tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setattr(jobs_main, "COMMANDS", Commands(finetune=FAKE))
    submissions = [
        Submission(name="a", path=str(model(tmp_path / "a"))),
        Submission(name="b", path=str(model(tmp_path / "b", die=1))),
    ]
    board = Leaderboard.open(suite(data, tasks=(classification(data, "tone"),)), tmp_path / "board", submissions)
    settings = jobs_main.slurm_settings("gpu,timeout_min=2", jobs=2)
    folder = tmp_path / "board" / ".slurm"
    jobs_main.run(
        board.units, functools.partial(run_on_slurm, settings=settings, folder=folder, cluster="local")
    )
    report = board.report()
    assert [(s["name"], s["complete"]) for s in report["submissions"]] == [("a", True), ("b", False)]
    assert "it ends at once" in report["failed"][0]["error"]
    with pytest.raises(UserError, match="slurm_partitoin"):
        run_on_slurm([], {"slurm_partitoin": "gpu"}, folder, lambda *_: None, cluster="local")


def test_slurm_settings_are_those_of_submitit():
    settings = jobs_main.slurm_settings("gpu,gpus_per_node=2,slurm_account=me")
    assert settings["slurm_partition"] == "gpu" and settings["gpus_per_node"] == 2
    assert settings["slurm_account"] == "me" and settings["timeout_min"] > 5


def test_a_run_is_fine_tuned_for_real(trained, tmp_path, monkeypatch):
    """By processes of their own, from the parameters of a run, as from a shell."""
    for split, count in (("train", 32), ("validation", 16), ("test", 16)):
        labels = ["good" if i % 2 else "bad" for i in range(count)]
        lines = [{"id": f"{split}-{i}", "text": f"the {x} one of {i}", "label": x} for i, x in enumerate(labels)]
        write(tmp_path / "data" / f"tone-{split}.jsonl", lines)
    config = suite(tmp_path / "data", tasks=(classification(tmp_path / "data", "tone"),))
    recipe = Recipe(learning_rates=(1e-2,), epochs=8.0, batch_size=16, evaluations=1)
    mlm = trained("mlm")
    submission = Submission(name="mlm", path=str(mlm.workdir))
    board = Leaderboard.open(chz.replace(config, recipe=recipe), tmp_path / "board", [submission])
    monkeypatch.chdir(ROOT)
    jobs_main.run(board.units, functools.partial(run_here, count=1))
    report = board.report()
    assert report["failed"] == []
    [found] = report["submissions"]
    assert found["complete"] and found["tasks"]["tone"]["mean"] > 0.9
    assert found["cost"]["parameters"] > 10_000 and found["cost"]["flops"] > 0
    experiment = mlm.run.experiment
    made = found["pretraining"]
    assert made["steps"] == 10 and made["objective"] == "MLM" and [step for step, _ in made["curve"]] == [5, 10]
    assert made["tokens"] == 10 * experiment.tokens_per_step() and made["flops"] > 0
    assert found["config"]["objective"] == "MLM" and found["config"]["objective.rate"] == "0.2"
    assert "step 16 of 16" in (board.units[0].folder / "log.txt").read_text()
    assert (tmp_path / "board" / "leaderboard.html").stat().st_size > 10_000
