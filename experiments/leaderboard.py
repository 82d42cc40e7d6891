"""Fine-tune every submission on every task of a suite, and rank them; the same command goes on where it stopped.

python -m experiments.leaderboard --config=configs/suites/stdlib.py --workdir=runs/board \\
    --submission=mlm=runs/mlm_stdlib --submission=scratch=runs/mlm_stdlib:fresh --jobs=2 recipe.seeds=0,1,2
python -m experiments.leaderboard --workdir=runs/board --submission=team=predictions/ --report-only

A submission is the workdir of a run, a Hugging Face folder, or a folder of predictions; it stays on the board of its
workdir. --slurm=PARTITION,NAME=VALUE,... runs them as jobs; names are those of submitit's AutoExecutor.
"""

from ptjax.config import UserError
from ptjax.leaderboard import Suite
from ptjax.leaderboard.leaderboard import JSON, PAGE, Leaderboard
from ptjax.leaderboard.submission import Submission

from . import cli, jobs, show

FLAGS = {
    "--submission": dict(action="append", default=[], metavar="NAME=DIR[:fresh]", help="may be repeated"),
    **jobs.FLAGS,
}


def main(command: cli.Command) -> None:
    start = jobs.starter(command, "leaderboard")
    submissions = [Submission.parse(text) for text in command.flags.submission]
    board = Leaderboard.open(command.config, command.workdir, submissions, claim=not command.flags.report_only)
    left = [] if command.flags.report_only else board.left()
    if left:
        jobs.run(left, start)
    report = board.report()
    show.leaderboard(report)
    print(f"\nranking  {command.workdir / JSON}\npage     {command.workdir / PAGE}")
    if report["failed"]:
        raise UserError(f"{len(report['failed'])} run(s) failed, as the page tells; the same command tries them again")


if __name__ == "__main__":
    cli.run(main, base=Suite, flags=FLAGS, doc=__doc__, uses_jax=False)
