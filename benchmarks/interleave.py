"""Programs side by side, one at a time in turn. A machine's speed swings within minutes, so only what was measured in
the same minute can be compared: a ratio is taken within each round, and the median of rounds is told with its spread.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO


@dataclasses.dataclass(frozen=True)
class Worker:
    """A program that speaks the protocol of `benchmarks.peers.worker`. environment: added to this process's."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Timing:
    """What became of a worker. rounds: seconds of each step, a list a round. faults: page faults a step, one a round.
    start: seconds from the command to the end of the first step; first_step: of that step. failed: why there is none
    of this."""

    name: str
    failed: str | None = None
    start: float = 0.0
    first_step: float = 0.0
    peak_bytes: int = 0
    losses: tuple[float, float] = (0.0, 0.0)  # of the first and the last step
    rounds: list[list[float]] = dataclasses.field(default_factory=list)
    faults: list[int] = dataclasses.field(default_factory=list)
    versions: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def median(self) -> float:
        return statistics.median(seconds for block in self.rounds for seconds in block)

    @property
    def best(self) -> float:
        return min(seconds for block in self.rounds for seconds in block)

    def over(self, other: "Timing") -> list[float]:
        """For each round, how many times as long a step took as the other's."""
        return [statistics.median(a) / statistics.median(b) for a, b in zip(self.rounds, other.rounds)]


def interleave(
    workers: Sequence[Worker],
    rounds: int,
    seconds: float,
    *,
    free_bytes: float = 0,
    say: Callable[[str], None] = print,
) -> list[Timing]:
    """A `Timing` of each worker. In every round each runs for about `seconds`, at least one step, while the others
    wait; every other round goes backwards.

    free_bytes: memory that has to be free for a worker to be started. One that fails is told and left out.
    """
    live, timings = [], []
    try:
        for worker in workers:
            started = _start(worker, free_bytes)
            timings.append(started.timing)
            say(f"{worker.name}: {started.timing.failed or f'first step after {started.timing.start:.1f} s'}")
            if not started.timing.failed:
                live.append(started)
        for number in range(rounds):
            for one in live if number % 2 == 0 else live[::-1]:
                one.run(seconds)
            live = [one for one in live if not one.timing.failed]
        for one in live:
            one.quit()
    finally:
        for one in live:
            one.process.kill()
    return timings


def _start(worker: Worker, free_bytes: float) -> "_Running":
    """With its first steps done, or with `failed` in its timing."""
    free = available()
    if free < free_bytes:
        return _Running(Timing(worker.name, f"left out: only {free / 2**30:.1f} GiB of memory are free"), None, None)
    errors, begin = tempfile.TemporaryFile("w+"), time.time()
    process = subprocess.Popen(
        worker.command,
        env={**os.environ, **worker.environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        bufsize=1,
    )
    running = _Running(Timing(worker.name), process, errors)
    if ready := running.hear("READY"):
        timing = running.timing
        timing.start, timing.first_step = ready["first_step_at"] - begin, ready["first_step_seconds"]
        timing.versions, timing.losses = ready["versions"], (ready["first_loss"],) * 2
    return running


@dataclasses.dataclass
class _Running:
    timing: Timing
    process: subprocess.Popen | None
    errors: IO[str] | None
    steps: int = 1  # of a round

    def hear(self, what: str) -> dict | None:
        """What it says under that word, past what frameworks print; None: it is gone, for the reason in `failed`."""
        for line in self.process.stdout:
            if line.startswith(what + " {"):
                return json.loads(line[len(what) :])
        code = self.process.wait()
        self.errors.seek(0)
        last = [line.strip() for line in self.errors if line.strip()][-1:] or ["it said nothing"]
        self.timing.failed = f"failed with exit code {code}: {last[0][:300]}"
        return None

    def run(self, seconds: float) -> None:
        try:
            self.process.stdin.write(f"run {self.steps}\n")
        except BrokenPipeError:
            pass  # `hear` tells why
        if times := self.hear("TIMES"):
            self.timing.rounds.append(times["seconds"])
            self.timing.faults.append(times["faults"])
            self.steps = max(1, round(seconds / statistics.median(times["seconds"])))

    def quit(self) -> None:
        self.process.stdin.write("quit\n")
        if bye := self.hear("BYE"):
            self.timing.peak_bytes = bye["peak_bytes"]
            self.timing.losses = (self.timing.losses[0], bye["last_loss"])


def available() -> int:
    """Bytes of memory that a new program can have."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) << 10
