"""Fine-tune every submission on every task of a suite, and rank them; the same command goes on where it stopped.

python -m experiments.leaderboard --config=configs/suites/stdlib.py --workdir=runs/board \\
    --submission=mlm=runs/mlm_stdlib --submission=scratch=runs/mlm_stdlib:fresh --jobs=2 recipe.seeds=0,1,2
python -m experiments.leaderboard --workdir=runs/board --submission=team=predictions/ --report-only

A submission is the workdir of a run, a Hugging Face folder, or a folder of predictions; it stays on the board of its
workdir. --slurm=PARTITION,NAME=VALUE,... runs them as jobs; names are those of submitit's AutoExecutor.
"""

import functools
import sys
from collections.abc import Callable

import jax
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ptjax.config import UserError
from ptjax.leaderboard import Suite
from ptjax.jobs import Job, run_here, run_on_slurm
from ptjax.leaderboard.leaderboard import JSON, PAGE, Leaderboard
from ptjax.leaderboard.submission import Submission
from ptjax.leaderboard.unit import Unit

from . import cli, show

FLAGS = {
    "--submission": dict(action="append", default=[], metavar="NAME=DIR[:fresh]", help="may be repeated"),
    "--jobs": dict(type=int, help="fine-tunings that run at once (default: 1 here, all of them on SLURM)"),
    "--slurm": dict(metavar="PARTITION[,NAME=VALUE...]", help="run there, such as gpu,gpus_per_node=1,timeout_min=60"),
    "--report-only": dict(action="store_true", help="rank what is done, and run nothing"),
}
FINETUNE = (sys.executable, "-m", f"{__package__}.finetune")  # what each process runs
TIMEOUT_MIN = 240  # of a job; submitit's own is 5


def main(command: cli.Command) -> None:
    flags = command.flags
    if flags.jobs is not None and flags.jobs < 1:
        raise UserError(f"--jobs={flags.jobs}: at least 1")
    if flags.slurm is None:
        start = functools.partial(run_here, count=flags.jobs or 1)
    else:
        settings = slurm_settings(flags.slurm, flags.jobs)
        start = functools.partial(run_on_slurm, settings=settings, folder=command.workdir / ".slurm")
    jax.config.update("jax_platforms", "cpu")  # of this process alone: what runs has the devices
    submissions = [Submission.parse(text) for text in flags.submission]
    board = Leaderboard.open(command.config, command.workdir, submissions, claim=not flags.report_only)
    left = [] if flags.report_only else board.left()
    if left:
        run(left, start)
    report = board.report()
    show.leaderboard(report)
    print(f"\nranking  {command.workdir / JSON}\npage     {command.workdir / PAGE}")
    if report["failed"]:
        raise UserError(f"{len(report['failed'])} run(s) failed, as the page tells; the same command tries them again")


def run(units: list[Unit], start: Callable[..., None]) -> None:
    """Runs them to their ends, good or bad. start: `run_here` or `run_on_slurm`, with its settings."""
    by_name = {unit.name: unit for unit in units}
    jobs = [unit.job(FINETUNE) for unit in units]
    columns = (TextColumn("fine-tuning"), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.description}"), console=show.console) as bar:
        cells = bar.add_task("", total=sum(len(unit.cells()) for unit in units))

        def watch(running: list[Job]) -> None:
            done = sum(len(unit.cells_done()) for unit in units)
            bar.update(cells, completed=done, description=", ".join(job.name for job in running))

        def ended(job: Job, problem: str | None) -> None:
            by_name[job.name].ended(problem)
            bar.console.print(f"{job.name}  {'done' if problem is None else 'failed'}", markup=False)  # why: at the end

        start(jobs, ended=ended, watch=watch)
        watch([])


def slurm_settings(text: str, jobs: int | None = None) -> dict[str, str | int]:
    """Of PARTITION,NAME=VALUE,... jobs: how many at once."""
    partition, *rest = text.split(",")
    settings = {"slurm_partition": partition, "timeout_min": TIMEOUT_MIN, "name": "leaderboard"}
    for pair in rest:
        name, equals, value = pair.partition("=")
        if not (name and equals):
            raise UserError(f"--slurm={text}: write PARTITION,NAME=VALUE,..., as in gpu,timeout_min=60")
        settings[name] = int(value) if value.isdecimal() else value
    if not partition or "=" in partition:
        raise UserError(f"--slurm={text}: the partition comes first")
    return settings if jobs is None else settings | {"slurm_array_parallelism": jobs}


if __name__ == "__main__":
    cli.run(main, base=Suite, flags=FLAGS, doc=__doc__, uses_jax=False)
