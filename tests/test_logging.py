"""The log of a run: one value a step whatever was killed, honest speeds, a bar only on a terminal."""

import json
import os
import subprocess
import sys
import time
import types
from pathlib import Path

import jax
import pytest

from ptjax import logging
from ptjax.config import UserError
from ptjax.logging import Logger, Logging, measure_peak, read_metrics
from ptjax.plot import loss_curve

WAITS = {"input": 0.001, "device": 0.002, "checkpoint": 0.0}


def make_logger(workdir, start_step=0, total_steps=100, **kwargs):
    config = Logging(**{"every": 2} | kwargs)
    return Logger(
        workdir,
        config,
        total_steps=total_steps,
        tokens_per_step=1000,
        flops_per_step=1e6,
        peak_flops=1e9,
        start_step=start_step,
    )


def train(logger, steps, loss=lambda step: float(step)):
    for step in steps:
        logger.train(step, {"loss": loss(step), "learning_rate": step / 10}, WAITS)


def test_a_line_is_the_mean_of_its_steps(tmp_path):
    logger = make_logger(tmp_path)
    train(logger, range(1, 6))
    logger.close()
    lines = read_metrics(tmp_path)
    assert [(r["step"], r["loss"]) for r in lines] == [(2, 1.5), (4, 3.5)]
    assert [r["learning_rate"] for r in lines] == [0.2, 0.4]  # what it was at that step


def test_the_last_step_is_always_logged(tmp_path):
    logger = make_logger(tmp_path, total_steps=5)
    train(logger, range(1, 6))
    assert [r["step"] for r in read_metrics(tmp_path)] == [2, 4, 5]  # readable while the run goes on


def test_resuming_leaves_one_value_a_step(tmp_path):
    first = make_logger(tmp_path)
    train(first, range(1, 9), loss=lambda step: 1.0)
    first.evaluation(8, {"loss": 1.0})
    first.event("a spike", norm=3.0)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 10, "lo')  # killed here; the last checkpoint is of step 5
    second = make_logger(tmp_path, start_step=5)
    train(second, range(6, 11), loss=lambda step: 2.0)
    second.evaluation(8, {"loss": 2.0})
    assert [(r["step"], r["loss"]) for r in read_metrics(tmp_path)] == [(2, 1), (4, 1), (6, 2), (8, 2), (10, 2)]
    assert [r["loss"] for r in read_metrics(tmp_path, "validation")] == [2.0]
    (event,) = read_metrics(tmp_path, "event")
    assert event["text"] == "a spike" and event["norm"] == 3.0 and event["step"] == 8


def test_lines_are_strict_json_even_with_nan(tmp_path):
    logger = make_logger(tmp_path)
    train(logger, [1, 2], loss=lambda step: float("nan"))

    def refuse(constant):
        raise AssertionError(constant)

    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=refuse)["loss"] is None


def test_speed_leaves_out_compilation_and_validation(tmp_path, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(logging, "time", types.SimpleNamespace(perf_counter=lambda: clock[0], time=time.time))
    logger = make_logger(tmp_path, every=5)
    clock[0] += 60  # compiling
    for step in range(1, 11):
        clock[0] += 0.01
        logger.train(step, {"loss": 1.0}, WAITS)
        if step in (3, 5):
            clock[0] += 7
            logger.evaluation(step, {"loss": 1.0})
    lines = read_metrics(tmp_path)
    assert len(lines) == 2
    for line in lines:
        assert line["seconds/step"] == pytest.approx(0.01)
        assert line["tokens_per_second"] == pytest.approx(1000 / 0.01)
        assert line["mfu"] == pytest.approx(1e6 / 0.01 / 1e9)
        assert line["seconds/input"] == pytest.approx(0.001) and line["seconds/device"] == pytest.approx(0.002)


def test_other_processes_write_nothing(tmp_path):
    sizes = dict(total_steps=1, tokens_per_step=1, flops_per_step=1.0, peak_flops=None)
    logger = Logger(tmp_path / "run", Logging(), **sizes, primary=False)
    train(logger, [1])
    logger.evaluation(1, {"loss": 1.0})
    logger.event("?")
    logger.close()
    assert not (tmp_path / "run").exists()


def test_plain_lines_without_a_terminal(tmp_path, capsys):
    logger = make_logger(tmp_path, every=1, total_steps=50)
    train(logger, range(1, 51))
    logger.evaluation(50, {"loss": 2.0, "accuracy": 0.25})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3  # the first, the last and the validation: not one a step
    assert lines[0].startswith("step 1/50  loss 1.0000")
    assert lines[1].startswith("step 50/50  loss 50.0000") and "tokens/s" in lines[1] and "MFU" in lines[1]
    assert lines[1].endswith("ETA 0:00")
    assert lines[2] == "step 50  validation  loss 2  accuracy 0.25"


def test_silence_on_request(tmp_path, capsys):
    logger = make_logger(tmp_path, progress=False)
    train(logger, range(1, 101))
    logger.evaluation(100, {"loss": 2.0})
    assert capsys.readouterr().out == "" and len(read_metrics(tmp_path)) == 50


ON_A_TERMINAL = """
import sys, time
from ptjax.logging import Logger, Logging
sizes = dict(total_steps=20, tokens_per_step=10**6, flops_per_step=1e6, peak_flops=1e8)
logger = Logger(sys.argv[1], Logging(every=5), **sizes)
for step in range(1, 21):
    logger.train(step, {"loss": 2.5, "accuracy": 0.5}, {})
    time.sleep(0.01)
    if step == 10:
        logger.event("something odd")
logger.close()
"""


def test_a_bar_on_a_terminal(tmp_path):
    main, terminal = os.openpty()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "JAX_PLATFORMS": "cpu"}
    environment |= {"COLUMNS": "120", "TERM": "xterm"}
    process = subprocess.Popen([sys.executable, "-c", ON_A_TERMINAL, tmp_path], stdout=terminal, env=environment)
    os.close(terminal)
    text = b""
    try:
        while chunk := os.read(main, 65536):
            text += chunk
    except OSError:
        pass  # the other end is closed
    os.close(main)
    assert process.wait() == 0
    shown = text.decode()
    assert "20/20" in shown and "loss 2.5000" in shown and "accuracy 0.500" in shown and "M tokens/s" in shown
    assert "something odd" in shown and "step 20/20" not in shown
    assert shown.count("\n") < 10


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboardX")
    logger = make_logger(tmp_path, tensorboard=True)
    train(logger, range(1, 5))
    logger.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"train/loss" in events.read_bytes() and b"train/tokens_per_second" in events.read_bytes()


def test_wandb_goes_on_with_the_same_run(tmp_path, monkeypatch):
    calls = []
    run = types.SimpleNamespace(log=lambda values, step: calls.append((step, values)), finish=lambda: None)
    wandb = types.SimpleNamespace(
        util=types.SimpleNamespace(generate_id=lambda: f"id{len(calls)}"), init=lambda **kw: calls.append(kw) or run
    )
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    logger = make_logger(tmp_path, wandb="project")
    train(logger, [1, 2])
    logger.close()
    make_logger(tmp_path, wandb="project", start_step=2).close()
    first, (step, values), second = calls
    assert first["project"] == "project" and first["id"] == second["id"] and first["resume"] == "allow"
    assert step == 2 and values["train/loss"] == 1.5


@pytest.mark.parametrize("field, module", [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_a_missing_extra_names_the_command(tmp_path, monkeypatch, field, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"{module} is not installed.*pip install 'ptjax\[logging\]'"):
        make_logger(tmp_path, **{field: True if field == "tensorboard" else "project"})


def test_a_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write to"):
        make_logger(tmp_path / "file")


def test_every_must_be_positive():
    with pytest.raises((UserError, ValueError), match="logging.every=0"):
        Logging(every=0)


def test_peak_is_what_matrix_products_reach():
    peak = measure_peak()
    begin = time.perf_counter()
    assert measure_peak() == peak and time.perf_counter() - begin < 0.01  # measured once
    x = jax.numpy.ones((512, 512))
    jax.block_until_ready(x @ x)
    begin = time.perf_counter()
    jax.block_until_ready(x @ x)
    assert peak > 0.05 * 2 * 512**3 / (time.perf_counter() - begin)
    assert 1e9 < peak < 1e16


def test_loss_curve(tmp_path):
    pytest.importorskip("matplotlib")
    logger = make_logger(tmp_path, total_steps=60)
    train(logger, range(1, 61), loss=lambda step: 7 - step / 20)
    logger.evaluation(60, {"loss": 4.2})
    path = loss_curve(tmp_path, baselines={"unigram entropy": 6.1})
    assert path == tmp_path / "loss.png" and path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match="no .*metrics.jsonl"):
        loss_curve(tmp_path / "elsewhere")


def test_plot_without_matplotlib_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r"pip install 'ptjax\[plot\]'"):
        loss_curve(tmp_path)


def test_clock_and_short_numbers():
    assert [logging._clock(s) for s in (5, 65, 3725)] == ["0:05", "1:05", "1:02:05"]
    assert [logging._short(v) for v in (12.0, 1234.0, 2.5e6, 3e9)] == ["12", "1.23k", "2.5M", "3G"]
