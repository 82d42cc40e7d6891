"""The loop: what it logs, when it saves and validates, how it stops, on every layout. The laws are in contracts/."""

import copy
import dataclasses
import functools
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import chz
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptjax.checkpoint import Checkpoints
from ptjax.config import UserError, to_json
from ptjax.data.pipeline import batch_at
from ptjax.learner import Learner
from ptjax.logging import read_metrics
from ptjax.loop import Interrupted
from ptjax.optim import LAMB, Lion, Muon
from ptjax.partition import CompiledStep, MeshConfig
from ptjax.provenance import Provenance, read_batches
from ptjax.replay import replay
from ptjax.train import Checkpointing, Run, train
from tests.small import KINDS, experiment

ROOT = Path(__file__).parents[1]


def losses(workdir) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in read_metrics(workdir)}


def steps_kept(workdir) -> list[int]:
    return Checkpoints(workdir / "checkpoints").steps()


def restored(run: Run, workdir, step: int | None = None):
    return jax.device_get(Checkpoints(workdir / "checkpoints").restore(run.abstract, step)[0])


def same(a, b) -> bool:
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((np.asarray(x) == np.asarray(y)).all()), a, b)))


# What a run leaves behind.


def test_metrics_of_each_step(trained):
    workdir = trained("mlm").workdir
    lines = read_metrics(workdir)
    assert [line["step"] for line in lines] == list(range(1, 11))
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.05  # it learns
    assert abs(lines[0]["loss"] - math.log(400)) < 0.5  # from next to nothing
    for line in lines:
        assert 0 <= line["accuracy"] <= 1
        for kind in ("gradient", "update", "parameter"):
            parts = [value for name, value in line.items() if name.startswith(f"{kind}_norm/")]
            assert len(parts) == 4
            assert line[f"{kind}_norm"] == pytest.approx(math.hypot(*parts), rel=1e-4) and line[f"{kind}_norm"] > 0
    for line in lines[1:]:  # the first step compiles
        waits = [line[f"seconds/{part}"] for part in ("input", "device", "checkpoint")]
        assert min(waits) >= 0 and sum(waits) < 1.05 * line["seconds/step"] + 0.01
        assert line["tokens_per_second"] == pytest.approx(16 * 32 / line["seconds/step"])
        assert 0 < line["mfu"] < 1
    assert lines[0]["learning_rate"] == pytest.approx(1e-3) and lines[-1]["learning_rate"] == pytest.approx(3e-3)


def test_validation_and_checkpoints_on_their_own_cadences(trained):
    workdir = trained("mlm").workdir
    validations = read_metrics(workdir, "validation")
    assert [line["step"] for line in validations] == [5, 10]
    assert validations[1]["loss"] < validations[0]["loss"]
    assert validations[0]["pseudo_perplexity"] == pytest.approx(math.exp(validations[0]["nll"]))
    assert steps_kept(workdir) == [3, 6, 9, 10]
    assert json.loads((workdir / "checkpoints/10/metrics.json").read_text())["loss"] == validations[1]["loss"]
    assert (workdir / "config.json").read_text() == (workdir / "checkpoints/10/config.json").read_text()


def test_a_finished_run_has_nothing_left_to_train(trained):
    run, events = trained("mlm").run, []
    before = (trained("mlm").workdir / "metrics.jsonl").read_text()
    state, scores = train(run, trained("mlm").workdir, on_event=events.append)
    assert int(state.step) == 10 and "nothing left to train" in events[-1]
    expected = read_metrics(trained("mlm").workdir, "validation")[-1]
    assert scores["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert (trained("mlm").workdir / "metrics.jsonl").read_text() == before


def test_keeps_the_latest_and_saves_by_the_clock(tiny_corpus, tmp_path):
    settings = Checkpointing(minutes=1e-9, keep=2, best=None)
    train(Run.open(experiment(tiny_corpus, steps=5, checkpoint=settings)), tmp_path)
    assert steps_kept(tmp_path) == [4, 5]


def test_saves_the_best_validation(tiny_corpus, tmp_path, monkeypatch):
    """Validations after 2, 4 and 6 steps; no other save is due but the last."""
    found = iter([3.0, 1.0, 2.0])
    monkeypatch.setattr(Run, "evaluate", lambda *arguments, **keywords: {"loss": next(found)})
    e = experiment(tiny_corpus, steps=6, checkpoint=Checkpointing(minutes=None, keep=1))
    train(Run.open(chz.replace(e, evaluation=chz.replace(e.evaluation, every=2))), tmp_path)
    assert steps_kept(tmp_path) == [4, 6]


# Replay.


@pytest.mark.parametrize("kind", ["mlm", "causal"])
def test_replay_is_the_step_that_training_took(trained, kind):
    """On one device, from the checkpoint before it: its loss as logged, its questions as they were put on eight."""
    run, workdir = trained(kind).run, trained(kind).workdir
    for step in (1, 7):
        alone = Run.open(chz.replace(run.experiment, mesh=MeshConfig()), jax.devices()[:1])
        state = Checkpoints(workdir / "checkpoints").restore(alone.abstract, step - 1)[0] if step > 1 else alone.init()
        again = replay(alone, state, step)
        [question] = again.questions
        logged = read_metrics(workdir)[step - 1]
        for name in ("loss", "accuracy", "nll", "gradient_norm", "learning_rate"):
            assert again.metrics[name] == pytest.approx(logged[name], rel=1e-5), name

        wide = restored(run, workdir, step - 1) if step > 1 else run.init()
        placed = run.train_step(step - 1).place(batch_at(run.pipeline, step - 1))
        corrupted = jax.device_get(jax.jit(run.learner.corrupted)(wide, placed))
        assert corrupted.keys() == question.batch.keys() and same(corrupted, question.batch)
        weight = run.learner.experiment.objective.weights
        each = [
            float(sum(weight({k: v[i : i + 1] for k, v in corrupted.items()}, run.learner.vocab).values()))
            for i in range(16)
        ]
        mean = float(np.average(question.row_loss, weights=each))
        assert mean == pytest.approx(logged["loss"], rel=1e-5)
    if kind == "mlm":
        assert (corrupted["tokens"] != corrupted["original"]).any()


# Stopping and going on.


def test_a_signal_saves_and_the_same_run_goes_on(tiny_corpus, tmp_path, trained):
    """In this process: the loop reads the signal between two steps."""
    run = trained("mlm").run
    once = threading.Event()

    class Batches:
        """The pipeline, with a SIGTERM while step 5 waits for its batch."""

        def __init__(self, pipeline):
            self.pipeline = pipeline

        def __getattr__(self, name):
            return getattr(self.pipeline, name)

        def iterate(self, start, *arguments):
            for step, batch in enumerate(self.pipeline.iterate(start, *arguments), start=start + 1):
                if step == 5 and not once.is_set():
                    once.set()
                    os.kill(os.getpid(), signal.SIGTERM)
                yield batch

    interrupted = copy.copy(run)
    interrupted.pipeline = Batches(run.pipeline)
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="SIGTERM: saved step 5; the same command goes on") as caught:
        train(interrupted, tmp_path)
    assert caught.value.signum == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is handler
    assert steps_kept(tmp_path) == [3, 5]
    state, _ = train(run, tmp_path)
    assert [event["text"] for event in read_metrics(tmp_path, "event")] == ["Resuming from step 5 of 10"]
    assert losses(tmp_path) == losses(trained("mlm").workdir)
    assert same(jax.device_get(state), restored(run, trained("mlm").workdir))


MAIN = ("-m", "experiments.pretrain")


def start(workdir, *arguments: str, **environment: str) -> subprocess.Popen:
    """A main of its own process, on one device."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=1"
    environment = {**os.environ, "XLA_FLAGS": flags, "COLUMNS": "400", **environment}
    command = [sys.executable, *MAIN, f"--workdir={workdir}", *arguments]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes)


def wait_for_step(workdir: Path, step: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if (workdir / "metrics.jsonl").is_file() and step in losses(workdir):
            return
        time.sleep(0.05)
    process.kill()
    raise AssertionError(process.communicate())


def test_signals_to_the_main_and_the_same_command_again(tiny_corpus, tmp_path):
    """SIGTERM, the command again, Ctrl-C: 143 and 130, each saying what was saved."""
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "config.json").write_text(to_json(experiment(tiny_corpus, steps=100_000)))
    at = 0
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        process = start(workdir)
        wait_for_step(workdir, at + 3, process)
        process.send_signal(number)
        out, error = process.communicate(timeout=200)
        assert process.returncode == code, error
        at = steps_kept(workdir)[-1]
        assert f"{number.name}: saved step {at}; the same command goes on from there" in error
        assert "Traceback" not in error
        assert number == signal.SIGTERM or f"Resuming from step {steps_kept(workdir)[-2]} of 100000" in out
        assert max(losses(workdir)) == at
    steps = [line["step"] for line in read_metrics(workdir)]
    assert steps == list(range(1, at + 1))


# Bad steps.


def with_bad_step(run: Run, step: int) -> Run:
    """The same run, compiled already, whose learning rate is not a number in that step (counted from 1)."""
    run = dataclasses.replace(run)
    train_step, run.eval_step = run.train_step(0), run.eval_step

    class Bad(CompiledStep):
        def __call__(self, state, batch):
            if int(state.step) == step - 1:
                state = state.replace(hyper=jax.tree.map(lambda x: x * np.float32(np.nan), state.hyper))
            return train_step(state, batch)

    run.train_step = lambda _: Bad(None, train_step.place)
    return run


def test_a_step_that_is_not_finite_stops_the_run(trained, tmp_path):
    """With step and examples, and the checkpoint before it untouched; the bad step was to be saved itself."""
    run = with_bad_step(trained("mlm").run, 6)
    with pytest.raises(UserError, match="gradient of step 6 is not finite") as caught:
        train(run, tmp_path)
    assert str(batch_at(run.pipeline, 5)["index"].tolist()) in str(caught.value)
    assert "last good checkpoint is step 3" in str(caught.value)
    assert steps_kept(tmp_path) == [3]
    assert same(restored(run, tmp_path), restored(run, trained("mlm").workdir, 3))


def test_a_bad_first_step_saves_nothing(trained, tmp_path):
    with pytest.raises(UserError, match="not finite.*\n.*no checkpoint was saved before it.*lower optimizer.peak_lr"):
        train(with_bad_step(trained("mlm").run, 1), tmp_path)
    assert steps_kept(tmp_path) == []


def test_skipped_steps_are_counted_and_change_nothing(tiny_corpus, tmp_path, monkeypatch):
    """A gradient of NaN at step 3, and one a thousand times too large at step 5."""
    checkpoint = Checkpointing(every=1, minutes=None, keep=9, best=None)
    e = experiment(tiny_corpus, steps=6, ema=0.9, checkpoint=checkpoint, skip_non_finite=True, skip_spikes=20.0)
    run, accumulate = Run.open(e), Learner._accumulate
    first = {step: int(batch_at(run.pipeline, step - 1)["index"][0]) for step in (3, 5)}  # a batch tells its step

    def exploding(*arguments, **keywords):
        grads, *found = accumulate(*arguments, **keywords)
        (batch,) = [a for a in arguments if isinstance(a, dict) and "index" in a]
        factor = jnp.where(batch["index"][0] == first[3], jnp.nan, 1.0)
        factor = jnp.where(batch["index"][0] == first[5], 1000.0, factor)
        return jax.tree.map(lambda g: g * factor, grads), *found

    monkeypatch.setattr(Learner, "_accumulate", exploding)
    train(run, tmp_path)
    states = {step: restored(run, tmp_path, step) for step in range(1, 7)}
    for field in ("params", "opt_state", "ema"):
        changes = [not same(getattr(states[step - 1], field), getattr(states[step], field)) for step in range(2, 7)]
        assert changes == [True, False, True, False, True], field
    assert [int(states[step].step) for step in states] == list(states)
    assert [line["skipped"] for line in read_metrics(tmp_path)] == [0, 0, 1, 1, 2, 2]
    assert np.isfinite(states[6].guard["norm"])


# Options.


def test_the_average_is_what_is_evaluated(tiny_corpus, tmp_path):
    e = experiment(tiny_corpus, steps=4, ema=0.6, checkpoint=Checkpointing(every=1, minutes=None, keep=9, best=None))
    run = Run.open(e)
    _, scores = train(run, tmp_path)
    average = jax.device_get(run.init().params)
    for step in range(1, 5):
        state = restored(run, tmp_path, step)
        average = jax.tree.map(lambda a, b: 0.6 * a + 0.4 * b, average, state.params)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), state.ema, average)
    assert scores["loss"] == pytest.approx(run.evaluate(state.ema, batches=2)["loss"], rel=1e-6)
    assert scores["loss"] != pytest.approx(run.evaluate(state.params, batches=2)["loss"], rel=1e-6)
    assert same(run.restore_params(tmp_path), state.ema)


def test_profile(tiny_corpus, tmp_path):
    """Of steps that end before they were to, and of none that were before a resumption."""
    e = experiment(tiny_corpus, steps=2, profile=(2, 50))
    train(Run.open(e), tmp_path)
    (trace,) = (tmp_path / "profile").rglob("*.trace.json.gz")
    trace.unlink()
    train(Run.open(chz.replace(e, steps=3, profile=(1, 2))), tmp_path)
    assert not list((tmp_path / "profile").rglob("*.trace.json.gz"))


@pytest.mark.parametrize("optimizer", [LAMB(), Lion(), Muon()], ids=lambda o: type(o).__name__)
def test_optimizers(tiny_corpus, tmp_path, optimizer):
    model = chz.replace(KINDS["mlm"][1], layers=1)
    run = Run.open(experiment(tiny_corpus, steps=2, optimizer=optimizer, model=model))
    before = jax.device_get(run.init().params)
    state, scores = train(run, tmp_path)
    assert math.isfinite(scores["loss"]) and abs(scores["loss"] - math.log(400)) < 1
    moved = jax.tree.map(lambda a, b: np.abs(a - np.asarray(b)).max(), before, state.params)
    assert max(jax.tree.leaves(moved)) > 1e-6 and not any(np.isnan(leaf) for leaf in jax.tree.leaves(moved))
    assert same(jax.device_get(state), restored(run, tmp_path))


# Layouts, through the whole loop.

LAYOUTS = {
    "mesh": MeshConfig(data=2, fsdp=2, tensor=2),
    "fsdp": MeshConfig(data=1, fsdp=8),
    "pmap": MeshConfig(layout="pmap"),
}


def test_a_run_moves_from_layout_to_layout(trained, tiny_corpus, tmp_path):
    """Four steps on a mesh, three on another, three by pmap: the losses of ten steps of data parallelism (law 2)."""
    for steps, mesh in zip((4, 7, 10), LAYOUTS.values()):
        run = Run.open(chz.replace(trained("mlm").run.experiment, steps=steps, mesh=mesh))
        state, scores = train(run, tmp_path)
        specs = {str(leaf.sharding.spec) for leaf in jax.tree.leaves(run.abstract.params)}
        assert mesh.layout == "pmap" or len(specs) > 1  # something is divided
    assert losses(tmp_path) == pytest.approx(losses(trained("mlm").workdir), rel=2e-5)
    expected = read_metrics(trained("mlm").workdir, "validation")[-1]
    assert scores["loss"] == pytest.approx(expected["loss"], rel=2e-5)


def test_two_processes_train_as_one(trained, tiny_corpus, tmp_path):
    """Each with one device, joined by `jax.distributed`; a model that is divided between them is saved and shown."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    workdir = tmp_path / "run"
    workdir.mkdir()
    e = chz.replace(trained("mlm").run.experiment, steps=3, mesh=MeshConfig(data=1, fsdp=2))
    (workdir / "config.json").write_text(to_json(e))
    environment = dict(JAX_COORDINATOR_ADDRESS=f"localhost:{port}", JAX_NUM_PROCESSES="2")
    processes = [start(workdir, **environment, JAX_PROCESS_ID=str(i)) for i in range(2)]
    try:
        outputs = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], outputs
    expected = losses(trained("mlm").workdir)
    assert losses(workdir) == pytest.approx({step: expected[step] for step in (1, 2, 3)}, rel=1e-4)
    assert steps_kept(workdir) == [3]
    records = [Provenance.read(folder) for folder in (workdir, trained("mlm").workdir)]
    assert records[0].initial == records[1].initial and records[0].parts[0]["processes"] == 2
    assert read_batches(workdir) == read_batches(trained("mlm").workdir)[:3]
    said = [out for out, _ in outputs]
    assert "five best guesses" in said[0] and "five best guesses" not in said[1]
