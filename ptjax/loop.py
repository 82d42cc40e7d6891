"""The host's side of training: batches ahead, metrics behind, validation, checkpoints, and signals between steps."""

import contextlib
import math
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np
from jax.experimental import multihost_utils

from ptjax.checkpoint import Checkpoints
from ptjax.config import UserError, to_json
from ptjax.logging import Logger
from ptjax.provenance import Record
from ptjax.types import Metrics, TrainState

if TYPE_CHECKING:
    from ptjax.train import Run

SKIPS_IN_A_ROW = 100  # so many skipped steps without a good one end a run


class Interrupted(KeyboardInterrupt):
    """A signal ended the run after its state was saved."""

    def __init__(self, signum: int, step: int):
        super().__init__(f"{signal.Signals(signum).name}: saved step {step}; the same command goes on from there")
        self.signum = signum


class Signals:
    """Turns SIGTERM and the first Ctrl-C into a flag, read between steps; a second Ctrl-C acts at once."""

    def __enter__(self) -> "Signals":
        self.received = 0
        self._old = {}
        with contextlib.suppress(ValueError):  # not the main thread: whoever owns it handles signals
            for name in (signal.SIGTERM, signal.SIGINT):
                self._old[name] = signal.signal(name, self._receive)
        return self

    def __exit__(self, *_):
        for name, handler in self._old.items():
            signal.signal(name, handler)

    def _receive(self, signum, frame):
        if self.received and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signum


class Loop:
    """The host's side: reads a batch ahead, fetches metrics a step late, where they are not there at once, so that the
    device never waits."""

    def __init__(
        self, run: "Run", checkpoints: Checkpoints, record: Record, logger: Logger, signals: Signals, workdir: Path
    ):
        self.experiment, self.run_, self.checkpoints, self.logger = run.experiment, run, checkpoints, logger
        self.record, self.signals, self.workdir = record, signals, workdir
        self.config_json = to_json(run.experiment)
        self.saved_at = time.monotonic()
        self.best = math.inf  # of this process: the first validation after a resume is saved
        self.skipped, self.skips_in_a_row = None, 0
        self.times = {"input": 0.0, "device": 0.0, "checkpoint": 0.0}
        self.pending: tuple[int, Metrics, np.ndarray] | None = None

    def run(self, state: TrainState, start: int) -> tuple[TrainState, dict[str, float]]:
        e = self.experiment
        batches = self.run_.pipeline.iterate(start, e.stop, self.run_.shard)
        with contextlib.ExitStack() as trace:
            for step in range(start, e.stop):
                step_function = self.run_.train_step(step)
                with self._timed("input"):
                    host = next(batches)
                    batch = step_function.place(host)
                done = step + 1
                first, last_profiled = e.profile or (0, 0)
                if done == max(first, start + 1) and done <= last_profiled:
                    trace.enter_context(jax.profiler.trace(str(self.workdir / "profile")))
                with self._timed("device"):  # CPUs run the step here, accelerators behind it
                    state, metrics = step_function(state, batch)
                self._report()
                self.record.add(step, host["index"])
                self.pending = (done, metrics, host["index"])
                if metrics["loss"][0].is_ready():
                    self._report()
                if done == last_profiled:
                    jax.block_until_ready(state)
                    trace.close()
                last = done == e.stop
                signum = self._agreed(self.signals.received, done)
                scores, best = None, False
                if last or (e.evaluation.every and done % e.evaluation.every == 0 and not signum):
                    self._report()
                    scores = self.run_.evaluate(state.averaged, batches=e.evaluation.batches)
                    self.logger.evaluation(done, scores)
                    best = self._is_best(scores)
                if last or signum or best or self._save_is_due(done):
                    self._save(done, state, scores)
                if signum:
                    self.checkpoints.wait()
                    raise Interrupted(signum, done)
        return state, scores

    @contextlib.contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.times[name] += time.perf_counter() - begin

    def _report(self) -> None:
        """Fetches the metrics of the step before, which may still be running, and stops the run where they are bad."""
        if self.pending is None:
            return
        step, metrics, index = self.pending
        self.pending = None
        with self._timed("device"):
            values = {k: float(s) / float(w) if w else math.nan for k, (s, w) in jax.device_get(metrics).items()}
        self.logger.train(step, values, self.times)
        self.times = dict.fromkeys(self.times, 0.0)
        self._stop_where_nothing_is_learned(step, values)
        if not math.isfinite(values["loss"] + values["update_norm"]) and not self.experiment.skip_non_finite:
            self.checkpoints.wait()
            kept = self.checkpoints.steps()
            self.logger.event(f"Step {step} is not finite", examples=index.tolist())
            raise UserError(
                f"the loss or the gradient of step {step} is not finite (loss {values['loss']}, gradient norm "
                f"{values['gradient_norm']}); examples of the batch: {index.tolist()}\n"
                + (f"the last good checkpoint is step {kept[-1]}" if kept else "no checkpoint was saved before it")
                + f"; `experiments.replay --step={step}` shows the batch. In another workdir, lower optimizer.peak_lr, "
                "optimizer.clip=1.0 or skip_non_finite=True may help"
            )

    def _stop_where_nothing_is_learned(self, step: int, values: dict[str, float]) -> None:
        skipped, before = values.get("skipped", 0), self.skipped
        self.skips_in_a_row = self.skips_in_a_row + 1 if before is not None and skipped > before else 0
        self.skipped = skipped
        if self.skips_in_a_row == SKIPS_IN_A_ROW:
            raise UserError(
                f"the last {SKIPS_IN_A_ROW} steps before step {step} were all skipped: nothing is learned any more. "
                "In another workdir, a lower optimizer.peak_lr or a larger skip_spikes may help"
            )

    def _is_best(self, scores: dict[str, float]) -> bool:
        value = scores.get(self.experiment.checkpoint.best, math.inf)
        if value >= self.best:
            return False
        self.best = value
        return True

    def _save_is_due(self, done: int) -> bool:
        c = self.experiment.checkpoint
        by_time = c.minutes is not None and time.monotonic() - self.saved_at > 60 * c.minutes
        by_count = done in c.keep_steps or bool(c.every and done % c.every == 0)
        return by_count or self._agreed(by_time, done) > 0

    def _save(self, done: int, state: TrainState, scores: dict[str, float] | None) -> None:
        self._report()  # never save what a bad step has made
        with self._timed("checkpoint"):
            self.record.flush()
            self.checkpoints.save(done, state, config_json=self.config_json, metrics=scores)
        self.saved_at = time.monotonic()

    def _agreed(self, value: int, done: int) -> int:
        """The largest value of any process. Processes meet only when they log, so that steps stay free of waiting."""
        if jax.process_count() == 1:
            return int(value)
        if done % self.experiment.logging.every:
            return 0
        return int(np.max(multihost_utils.process_allgather(np.int32(value))))
