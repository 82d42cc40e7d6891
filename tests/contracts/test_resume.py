"""Law 2: a run that stops and goes on is the run that did not stop."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import chz
import jax
import numpy as np
import pytest

from ptjax.config import to_json
from ptjax.data.pipeline import Data, batch_at
from ptjax.logging import Logging, read_metrics
from ptjax.optim import AdamW, Constant
from ptjax.partition import MeshConfig
from ptjax.train import Checkpointing, Run, train

from ..small import same
from . import cases


def small(tiny_corpus, objective="mlm", body="bert", **changes):
    """A run with dropout, an average of the parameters and moments: all that a checkpoint has to carry."""
    model = chz.replace(cases.BODIES[body], dropout=0.1, attention_dropout=0.1)
    settings = dict(
        optimizer=AdamW(schedule=Constant(warmup=2)),
        data=Data(corpus=tiny_corpus, length=32, batch_size=16),
        mesh=MeshConfig(data=-1),
        ema=0.9,
        checkpoint=Checkpointing(every=None, minutes=None),
        logging=Logging(every=1, progress=False),
    )
    return cases.experiment(objective, model, **settings | changes)


@pytest.mark.parametrize("objective,body", [("mlm-whole-words", "bert"), ("causal-regularised", "gpt")])
def test_stop_and_resume_is_bitwise(objective, body, tiny_corpus, tmp_path):
    experiment = small(tiny_corpus, objective, body)
    straight, _ = train(Run.open(experiment), tmp_path / "straight")
    train(Run.open(chz.replace(experiment, steps=5)), tmp_path / "stopped")
    resumed, _ = train(Run.open(experiment), tmp_path / "stopped")
    assert same(straight, resumed)
    losses = [[line["loss"] for line in read_metrics(tmp_path / name, "train")] for name in ("straight", "stopped")]
    assert losses[0] == losses[1] and len(losses[0]) == 10


def test_another_mesh_sees_the_same(tiny_corpus):
    """Batches and masks bitwise, on one device and on eight. That losses are the same, also of a run that moves between
    meshes, is in tests/test_train.py."""
    experiment = small(tiny_corpus, model=cases.BODIES["bert"], ema=None)
    meshes = [MeshConfig(data=8), MeshConfig(data=2, fsdp=2, tensor=2), MeshConfig(data=1)]
    devices = [None, None, jax.devices()[:1]]
    runs = [Run.open(chz.replace(experiment, mesh=mesh), on) for mesh, on in zip(meshes, devices)]
    states = [run.init() for run in runs]
    for step in (0, 9, 1000):
        host = [batch_at(run.pipeline, step) for run in runs]
        assert same(host[0], host[1]) and same(host[0], host[2])
        asked = [
            jax.jit(run.learner.corrupted)(state.replace(step=np.int32(step)), run.train_step(step).place(batch))
            for run, state, batch in zip(runs, states, host)
        ]
        assert same(asked[0], asked[1]) and same(asked[0], asked[2])


def test_kill_at_a_random_moment(tiny_corpus, tmp_path):
    """kill -9, the same command again: bitwise the parameters of the run that nobody disturbed."""
    experiment = small(tiny_corpus, steps=24, checkpoint=Checkpointing(every=4, minutes=None))
    run = Run.open(experiment)
    straight, _ = train(run, tmp_path / "straight")

    workdir = tmp_path / "killed"
    workdir.mkdir()
    (workdir / "config.json").write_text(to_json(experiment))
    command = [sys.executable, "-m", "experiments.pretrain", f"--workdir={workdir}"]
    settings = dict(cwd=Path(__file__).parents[2], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    process = subprocess.Popen(command, **settings)
    until = time.monotonic() + 120
    while not list((workdir / "checkpoints").glob("[0-9]*")) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(random.random() * 0.3)
    process.kill()
    assert process.wait() == -signal.SIGKILL, process.stderr.read()

    resumed, _ = train(run, workdir)
    assert same(straight, resumed)
