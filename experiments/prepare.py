"""Prepare a text corpus: train or import its tokenizer, and write its tokens as a TFDS data set.

    python -m experiments.prepare --config=configs/mlm_stdlib.py
    python -m experiments.prepare --config=configs/corpus.py:glob='my/texts/*.txt' --workdir=data/mine
    python -m experiments.prepare --config=configs/corpus.py:glob='my/texts/*.txt' --workdir=data/mine \\
        tokenizer=Imported tokenizer.path=models/all-MiniLM-L6-v2

The config is a Corpus, or an Experiment, of which data.corpus is taken. --workdir stands for the corpus's path.
"""

from pathlib import Path

import chz
import rich.markup  # noqa: F401  before TFDS patches imports while the bar, in a thread, wants it
from rich.console import Console
from rich.progress import FileSizeColumn, Progress, TextColumn, TimeElapsedColumn, TransferSpeedColumn

from ptjax.config import UserError, describe
from ptjax.data.manifest import Manifest
from ptjax.data.prepare import Corpus, Report, prepare, verify

from . import cli

FLAGS = {
    "--workers": dict(type=int, help="encoding threads (default: one a core)"),
    "--verify": dict(action="store_true", help="check sizes and hashes of what is there, and stop"),
}


def main(command: cli.Command) -> None:
    config = getattr(getattr(command.config, "data", None), "corpus", command.config)
    if not isinstance(config, Corpus):
        kind = type(config).__name__
        raise UserError(f"The config has to be a Corpus, or an Experiment with data.corpus, not a {kind}.")
    corpus = chz.replace(config, path=str(command.workdir)) if command.workdir else config
    if command.flags.verify:
        print(f"{verify(corpus.path)} files of {corpus.path} are as they were written.")
        return
    print(describe(corpus))
    prepare_with_progress(corpus, command.flags.workers)


def prepare_with_progress(corpus: Corpus, workers: int | None = None) -> None:
    console = Console()
    phase = TextColumn("{task.description:10}")
    with Progress(phase, FileSizeColumn(), TransferSpeedColumn(), TimeElapsedColumn(), console=console) as bar:
        tasks = {}

        def progress(phase: str, text_bytes: int) -> None:
            if phase not in tasks:
                tasks[phase] = bar.add_task(phase, total=None)
            bar.update(tasks[phase], completed=text_bytes)

        report = prepare(corpus, workers=workers, progress=progress)
    console.print(report)
    console.print(_summary(report, corpus.path), highlight=False, soft_wrap=True)


def ensure_prepared(corpus: Corpus) -> None:
    """Prepares what a run is about to read, unless it is there; the first process does it for all."""
    manifest = Manifest.load(Path(corpus.path).expanduser())
    if corpus.source is not None and not (manifest and manifest.complete):
        prepare_with_progress(corpus)


def _summary(report: Report, path: str) -> str:
    if not report.seconds:
        return f"Already prepared in {path}."
    phases = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in report.seconds.items())
    speed = report.encoded_bytes / 1e6 / report.seconds["encode"]
    return f"Prepared in {path} ({phases}; encoding {speed:.1f} MB/s)."


if __name__ == "__main__":
    cli.run(main, doc=__doc__, flags=FLAGS, workdir=False, uses_jax=False)
