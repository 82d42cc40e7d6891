"""Branches: a run that goes on from another run's state; and runs that pause."""

import dataclasses
import shutil
from pathlib import Path

import chz
import jax
import numpy as np
import pytest

from ptjax.branch import Branch
from ptjax.checkpoint import Checkpoints, Saved, leaves_by_path
from ptjax.config import UserError, override
from ptjax.logging import read_metrics
from ptjax.models import BERT
from ptjax.objectives import MLM, CausalLM
from ptjax.optim import Lion
from ptjax.provenance import Provenance, read_batches
from ptjax.train import Checkpointing, Run, train
from ptjax.types import TrainState
from tests.small import SIZE, experiment, same

STEP = 3
MODEL = BERT(**SIZE | dict(layers=1, width=16, hidden=32, dropout=0.1))


def tiny(corpus, objective=CausalLM(), **changes):
    """Six steps; step 3 stays."""
    checkpoint = Checkpointing(minutes=None, best=None, keep=1, keep_steps=(STEP,))
    settings = dict(model=MODEL, objective=objective, steps=6, checkpoint=checkpoint, ema=0.9, skip_non_finite=True)
    return experiment(corpus, **settings | changes)


def restored(run: Run, workdir, step: int):
    return leaves_by_path(jax.device_get(Checkpoints(workdir / "checkpoints").restore(run.abstract, step)[0]))


@pytest.fixture(scope="module")
def parent(tiny_corpus, tmp_path_factory):
    """(run, workdir): it paused after step 4, and has ended."""
    workdir = tmp_path_factory.mktemp("branch") / "parent"
    run = Run.open(tiny(tiny_corpus))
    paused = Run.open(chz.replace(run.experiment, until=4))
    paused._steps = run._steps
    train(paused, workdir, on_event=str)
    assert Checkpoints(workdir / "checkpoints").steps() == [3, 4]
    train(run, workdir, on_event=str)
    return run, workdir


def test_a_pause_changes_nothing(parent, tmp_path):
    run, workdir = parent
    state, _ = train(run, tmp_path, on_event=str)
    assert same(leaves_by_path(state), restored(run, workdir, 6))
    assert read_batches(tmp_path) == read_batches(workdir) and len(read_batches(workdir)) == 6
    validations = [line["step"] for line in read_metrics(workdir, "validation")]
    assert validations == [4, 6] and [line["step"] for line in read_metrics(workdir)] == [1, 2, 3, 4, 5, 6]


def test_steps_that_stay(parent):
    assert Checkpoints(parent[1] / "checkpoints").steps() == [3, 6]  # keep=1 and keep_steps


def test_a_branch_with_the_config_of_its_parent_ends_where_that_does(parent, tmp_path):
    run, workdir = parent
    same_again = Run.open(chz.replace(run.experiment, branch_from=f"{workdir}@{STEP}"))
    same_again._steps = run._steps
    events = []
    state, _ = train(same_again, tmp_path, on_event=events.append)
    assert same(leaves_by_path(state), restored(run, workdir, 6))
    assert events == [f"Goes on from step 3 of {workdir}: params, opt_state, ema, guard taken"]
    assert read_batches(tmp_path) == read_batches(workdir)
    own, there = Provenance.read(tmp_path), Provenance.read(workdir)
    assert own.initial == there.initial and own.parts == there.parts and own.data == there.data
    assert own.branched["step"] == STEP and own.branched["workdir"] == str(workdir)


def test_another_objective_on_the_same_body_keeps_its_moments(parent, tmp_path):
    """The state that the branch starts from, nothing trained."""
    run, workdir = parent
    child = Run.open(tiny_like(run, objective=MLM(), branch_from=f"{workdir}@{STEP}", seed=1))
    before, state = restored(run, workdir, STEP), leaves_by_path(jax.device_get(child.init()))
    for path, leaf in before.items():
        if path != "seed":
            assert (state[path] == leaf).all(), path
    assert state["seed"] == 1 and state["step"] == STEP
    assert any("/mu/body/" in path and np.any(leaf) for path, leaf in before.items())
    new = sorted(state.keys() - before.keys())
    assert new and all("/head/" in path for path in new)
    assert not any(np.any(state[path]) for path in new if path.startswith("opt_state/"))
    drawn = "head/dense/kernel"
    assert np.any(state[f"params/{drawn}"]) and (state[f"ema/{drawn}"] == state[f"params/{drawn}"]).all()
    expected = "params, opt_state, ema, guard taken but for head/bias, head/dense, head/norm"
    assert str(child.beginning) == f"Goes on from step 3 of {workdir}: {expected}"


def tiny_like(run: Run, **changes):
    return chz.replace(run.experiment, **changes)


def test_moments_of_another_optimizer_are_not_taken(parent):
    run, workdir = parent
    branch = Run.open(tiny_like(run, optimizer=Lion(), branch_from=f"{workdir}@{STEP}", ema=None)).beginning
    assert str(branch).endswith(": params, guard taken; opt_state fresh")


def test_an_average_that_was_not_kept_begins_with_the_parameters():
    params = {"body": {"x": np.zeros(2)}, "head": {"y": np.ones(2)}}
    state = TrainState(np.int32(0), np.uint32(1), {}, params=params, opt_state=(), ema=params)
    branch = Branch(Path(), Saved(Path(), 7), {}, (), ())
    grown = branch.grown({"params/body/x": np.full(2, 5.0)}, state)
    assert same(grown.ema, {"body": {"x": np.full(2, 5.0)}, "head": {"y": np.ones(2)}}) and grown.step == 7
    grown = branch.grown({"params/body/x": np.full(2, 5.0), "ema/body/x": np.full(2, 3.0)}, state)
    assert same(grown.ema, {"body": {"x": np.full(2, 3.0)}, "head": {"y": np.ones(2)}})


@pytest.mark.parametrize(
    "changes, message",
    [
        (["branch_from=WORKDIR@2"], r"no checkpoint of step 2, only of 3, 6. A run keeps those .*keep_steps=2"),
        (["branch_from=WORKDIR/none@3"], "none is not the workdir of a run"),
        (
            ["model.width=32"],
            r"is of another body. Leaves that differ:\n  body/embed/positions: float32\[64, 16\] there",
        ),
        (
            ["objective=SpanCorruption", "objective.sentinels=120"],
            r"float32\[512, 16\] there, float32\[640, 16\] here\nObjectives with ids .* init_from takes",
        ),
        (["branch_from=WORKDIR"], "branch_from=.* written WORKDIR@STEP, for example runs/mlm@1000"),
        (["steps=3"], "its step is above 0 and below steps=3"),
        (["until=3"], "until=3: a step above 3, up to steps=6"),
        (["init_from=runs/mlm"], "init_from and branch_from are two beginnings"),
        (["checkpoint.keep_steps=0"], "keep_steps are counted from 1"),
    ],
)
def test_what_cannot_be_a_branch(parent, changes, message):
    run, workdir = parent
    changes = [f"branch_from={workdir}@{STEP}", *(change.replace("WORKDIR", str(workdir)) for change in changes)]
    with pytest.raises(UserError, match=message):
        Run.open(override(run.experiment, changes)).beginning


def test_a_branch_has_the_tokenizer_of_its_parent(parent, tmp_path):
    run, workdir = parent
    shutil.copytree(workdir, tmp_path / "run", ignore=lambda *_: ["4", "6"])
    record = Provenance.read(workdir)
    dataclasses.replace(record, tokenizer="0").write(tmp_path / "run")
    child = Run.open(tiny_like(run, branch_from=f"{tmp_path / 'run'}@{STEP}"))
    with pytest.raises(UserError, match="was trained with another tokenizer than that of"):
        child.beginning
    # and of a parent without a record nothing is known but its leaves' shapes
    for name in ("provenance.json", "batches.txt"):
        (tmp_path / "run" / name).unlink()
    own = Provenance("", "", {"body/embed/tokens": {"hash": "1"}, "head/bias": {"hash": "2"}}, None, None, ())
    recorded, batches = Run.open(child.experiment).beginning.recorded(own)
    assert [leaf["hash"] for leaf in recorded.initial.values()] == ["?", "2"] and batches == ["?"] * STEP
    damaged = next((tmp_path / "run" / "checkpoints" / "3").rglob("manifest.json"))
    damaged.write_text("{}}")
    with pytest.raises(UserError, match="step 3: manifest.json is missing or unreadable"):
        Run.open(child.experiment).beginning
