"""Branches: a run that goes on from another run's state; and runs that pause."""

import chz
import jax
import numpy as np
import pytest

from ptjax.checkpoint import Checkpoints, leaves_by_path
from ptjax.config import UserError, override
from ptjax.logging import read_metrics
from ptjax.models import BERT
from ptjax.objectives import MLM, CausalLM, SpanCorruption
from ptjax.optim import Lion
from ptjax.provenance import Provenance, read_batches
from ptjax.train import Checkpointing, Run, train
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
    assert events == [f"Goes on from step 3 of {workdir}: params taken; opt_state taken; ema taken; guard taken"]
    assert read_batches(tmp_path) == read_batches(workdir)
    own, there = Provenance.read(tmp_path), Provenance.read(workdir)
    assert own.initial == there.initial and own.parts == there.parts and own.data == there.data
    assert own.branched["step"] == STEP and own.branched["workdir"] == str(workdir)
