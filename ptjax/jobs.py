"""Commands run side by side, in processes on this machine or as jobs of SLURM, each with a log of its own."""

import collections
import contextlib
import dataclasses
import fcntl
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ptjax.config import UserError

GRACE = 10.0  # seconds that a process is given to end by itself


@dataclasses.dataclass(frozen=True)
class Commands:
    """What processes are started with; each takes --workdir=FOLDER and reads the config.json there."""

    pretrain: tuple[str, ...] = ()
    finetune: tuple[str, ...] = ()
    measure: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Job:
    """A command whose output goes to the end of a file. Whoever writes there has it locked, children included: no two
    processes are at the same job, even where the one that started them is gone."""

    name: str
    command: tuple[str, ...]
    log: Path

    def start(self) -> subprocess.Popen:
        """Raises UserError where it is being run already."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with locked(self.log) as log:
            log.write(f"$ {shlex.join(self.command)}\n".encode())
            # A session of its own: Ctrl-C in a terminal reaches children through us, and their children through them.
            return subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def problem(self, code: int) -> str | None:
        """What is wrong, in one line; None for a command that went well."""
        if code == 0:
            return None
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        said = (
            f"{lines[-1].removeprefix('Error: ')} (all of it: {self.log})"
            if lines and not lines[-1].startswith("$ ")
            else f"see {self.log}"
        )
        return f"killed by {signal.Signals(-code).name}; {said}" if code < 0 else said

    def run(self) -> str | None:
        """Runs it to its end here; its `problem`."""
        process = self.start()
        try:
            return self.problem(process.wait())
        finally:
            _end([process])


def keep_problem(path: Path, problem: str | None) -> None:
    """What stopped a job, in a file that is not there where nothing did."""
    if problem is None:
        path.unlink(missing_ok=True)
    else:
        path.write_text(problem + "\n", encoding="utf-8")


@contextlib.contextmanager
def locked(log: Path) -> Iterator[BinaryIO]:
    """A job's log, to append to while nobody else does; processes that inherit the file hold it too. Raises UserError
    where the job is being run."""
    with open(log, "ab", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is still at it and writes {log}: wait for it, or end it") from None
        yield file


Watch = Callable[[Sequence[Job]], None]  # told now and then which jobs are running
Ended = Callable[[Job, str | None], None]  # told of each that ends, and of its problem


def run_here(jobs: Sequence[Job], count: int, ended: Ended, watch: Watch = lambda _: None) -> None:
    """At most `count` at a time, on equal shares of the processor cores, so that none waits for another's threads. An
    exception, Ctrl-C or SIGTERM ends those that are running."""
    waiting, running = collections.deque(jobs), {}
    shares = collections.deque(_shares(count))
    with _sigterm_raises():
        try:
            while waiting or running:
                while waiting and len(running) < count:
                    job = waiting.popleft()
                    try:
                        process = job.start()
                    except UserError as error:
                        ended(job, str(error))
                        continue
                    running[job] = process, shares.popleft()
                    _keep_to(process, running[job][1])
                for job, (process, share) in list(running.items()):
                    if process.poll() is not None:
                        del running[job]
                        shares.append(share)
                        ended(job, job.problem(process.returncode))
                watch(list(running))
                time.sleep(0.1)
        finally:
            _end([process for process, _ in running.values()])


def _shares(count: int) -> list[set[int] | None]:
    """Cores for each of `count` processes; None: where there are too few to share, or that cannot be said."""
    if count == 1 or not hasattr(os, "sched_setaffinity"):
        return [None] * count
    cores = sorted(os.sched_getaffinity(0))
    return [set(cores[k::count]) or None for k in range(count)] if len(cores) >= count else [None] * count


def _keep_to(process: subprocess.Popen, cores: set[int] | None) -> None:
    """Before it has threads, which inherit it: an interpreter takes longer to start than we do."""
    if cores is not None:
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(process.pid, cores)


def run_on_slurm(
    jobs: Sequence[Job],
    settings: Mapping[str, Any],
    folder: Path,
    ended: Ended,
    watch: Watch = lambda _: None,
    cluster: str = "slurm",
) -> None:
    """As one job array. An exception, Ctrl-C or SIGTERM cancels what has not ended.

    Args:
      settings: of submitit's AutoExecutor: slurm_partition, timeout_min, gpus_per_node, slurm_array_parallelism, ...
      folder: for submitit's files, which all nodes see.
      cluster: 'slurm', or 'local' for processes of submitit on this machine.
    """
    from ptjax.logging import require  # here: it imports jax, and so would each node only to start a command

    submitit = require("submitit", "slurm")
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
        executor.update_parameters(**settings)
        with executor.batch():
            submitted = [(job, executor.submit(job.run)) for job in jobs]
    except (RuntimeError, NameError, TypeError, AssertionError, subprocess.CalledProcessError, OSError) as error:
        raise UserError(f"SLURM does not take the jobs: {error}") from error
    pause = 0.1 if cluster == "local" else 2.0
    with _sigterm_raises():
        try:
            while submitted:
                for job, one in list(submitted):
                    if one.done():
                        submitted.remove((job, one))
                        ended(job, _problem(one))
                watch([job for job, one in submitted if one.state == "RUNNING"])
                time.sleep(pause if submitted else 0)
        finally:
            for _, one in submitted:
                one.cancel()


def _problem(submitted) -> str | None:
    """Of a job of submitit, that has ended one way or another."""
    try:
        return submitted.result()
    except Exception as error:  # whatever a node can do, the others go on
        last = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        return f"{last[0]} (SLURM job {submitted.job_id}, state {submitted.state})"


def _end(processes: Sequence[subprocess.Popen]) -> None:
    """Asks them to end, with their children, and kills what has not after a while."""
    for number, seconds in ((signal.SIGTERM, GRACE), (signal.SIGKILL, GRACE)):
        until = time.monotonic() + seconds
        for process in processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(until - time.monotonic(), 0))


class Terminated(KeyboardInterrupt):
    """SIGTERM. signum: its number."""

    signum = signal.SIGTERM


@contextlib.contextmanager
def _sigterm_raises():
    def receive(signum, frame):
        raise Terminated("SIGTERM: what was running is ended; the same command goes on from there")

    old = None
    with contextlib.suppress(ValueError):  # not the main thread: whoever owns it handles signals
        old = signal.signal(signal.SIGTERM, receive)
    try:
        yield
    finally:
        if old is not None:
            signal.signal(signal.SIGTERM, old)
