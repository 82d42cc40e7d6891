"""What mains share that run others: side by side here or as jobs of SLURM, with a bar."""

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Protocol

import jax
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ptjax.config import UserError
from ptjax.jobs import Commands, Job, run_here, run_on_slurm

from . import cli, show

FLAGS = {
    "--jobs": dict(type=int, help="how many run at once (default: 1 here, all of them on SLURM)"),
    "--slurm": dict(metavar="PARTITION[,NAME=VALUE...]", help="run there, such as gpu,gpus_per_node=1,timeout_min=60"),
    "--report-only": dict(action="store_true", help="report what is done, and run nothing"),
}
TIMEOUT_MIN = 240  # of a job; submitit's own is 5
COMMANDS = Commands(
    pretrain=(sys.executable, "-m", f"{__package__}.pretrain"),
    finetune=(sys.executable, "-m", f"{__package__}.finetune"),
    measure=(sys.executable, "-m", f"{__package__}.compare", "--measure"),
)


class Piece(Protocol):
    """What runs as one job. kind: in words. size, done: of a progress bar."""

    name: str
    kind: str
    size: int
    done: int

    def job(self, commands: Commands) -> Job: ...

    def ended(self, problem: str | None) -> None: ...


def starter(command: cli.Command, name: str) -> Callable[..., None]:
    """`run_here` or `run_on_slurm`, as the flags say. name: of jobs. This process leaves the devices to what it runs.
    Raises UserError."""
    flags = command.flags
    if flags.jobs is not None and flags.jobs < 1:
        raise UserError(f"--jobs={flags.jobs}: at least 1")
    jax.config.update("jax_platforms", "cpu")
    if flags.slurm is None:
        return functools.partial(run_here, count=flags.jobs or 1)
    settings = slurm_settings(flags.slurm, flags.jobs, name)
    return functools.partial(run_on_slurm, settings=settings, folder=command.workdir / ".slurm")


def run(pieces: Sequence[Piece], start: Callable[..., None]) -> list[str]:
    """Runs them to their ends, good or bad; names of those that failed. start: of `starter`."""
    title = " and ".join(dict.fromkeys(piece.kind for piece in pieces))
    by_name = {piece.name: piece for piece in pieces}
    columns = (TextColumn(title), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn())
    failed = []
    with Progress(*columns, TextColumn("{task.description}"), console=show.console) as bar:
        cells = bar.add_task("", total=sum(piece.size for piece in pieces))

        def watch(running: list[Job]) -> None:
            bar.update(
                cells, completed=sum(piece.done for piece in pieces), description=", ".join(job.name for job in running)
            )

        def ended(job: Job, problem: str | None) -> None:
            by_name[job.name].ended(problem)
            if problem is not None:
                failed.append(job.name)
            bar.console.print(f"{job.name}  {'done' if problem is None else 'failed'}", markup=False)  # why: at the end

        start([piece.job(COMMANDS) for piece in pieces], ended=ended, watch=watch)
        watch([])
    return failed


def slurm_settings(text: str, jobs: int | None = None, name: str = "ptjax") -> dict[str, str | int]:
    """Of PARTITION,NAME=VALUE,... jobs: how many at once. name: of the job array."""
    partition, *rest = text.split(",")
    settings = {"slurm_partition": partition, "timeout_min": TIMEOUT_MIN, "name": name}
    for pair in rest:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise UserError(f"--slurm={text}: write PARTITION,NAME=VALUE,..., as in gpu,timeout_min=60")
        settings[key] = int(value) if value.isdecimal() else value
    if not partition or "=" in partition:
        raise UserError(f"--slurm={text}: the partition comes first")
    return settings if jobs is None else settings | {"slurm_array_parallelism": jobs}
