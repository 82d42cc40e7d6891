"""Compare arms of an experiment, provably paired; the same command goes on where it stopped.

python -m experiments.compare --config=configs/compare/stdlib.py --workdir=runs/compare --jobs=2
python -m experiments.compare --workdir=runs/compare --report-only

Pre-trains every arm with every seed, fine-tunes each run on the suite, and reports: comparison.html, .md and .json.
--slurm=PARTITION,NAME=VALUE,... runs them as jobs; names are those of submitit's AutoExecutor.
"""

from collections.abc import Callable

from ptjax.compare import Comparison
from ptjax.compare.report import JSON, MARKDOWN, PAGE, report
from ptjax.compare.study import Study
from ptjax.config import UserError

from . import cli, jobs, show
from .prepare import ensure_prepared

FLAGS = {
    **jobs.FLAGS,
    "--dry-run": dict(action="store_true", help="print what each arm spends, and run nothing"),
    "--measure": dict(action="store_true", help="time a step of each arm, and run nothing else"),
}


def main(command: cli.Command) -> None:
    if command.flags.measure:
        cli.set_up_jax()
        return Study(command.config, command.workdir).measure()
    start = jobs.starter(command, "compare")
    study = Study.open(command.config, command.workdir)
    for corpus in study.corpora():
        ensure_prepared(corpus)
    study.check()
    if command.flags.dry_run:
        return show.budget(study)
    study.claim()
    if not command.flags.report_only:
        run(study, start)
    contents = report(study)
    show.comparison(contents)
    for name, path in (("report", PAGE), ("Markdown", MARKDOWN), ("JSON", JSON)):
        print(f"{name:<9}{command.workdir / path}")
    if contents["failed"]:
        raise UserError(f"{len(contents['failed'])} piece(s) failed, as the page tells; the same command tries again")


def run(study: Study, start: Callable[..., None]) -> None:
    """Wave after wave, until nothing is left that can be run. Arms are held against each other before each one."""
    failed: list[str] = []
    while pieces := study.next(failed):
        failed += jobs.run(pieces, start)
        study.check()


if __name__ == "__main__":
    cli.run(main, base=Comparison, flags=FLAGS, doc=__doc__, uses_jax=False)
