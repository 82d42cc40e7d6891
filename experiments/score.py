"""Score predictions with labels that only the organiser has, and make the files that participants get.

python -m experiments.score --config=configs/suites/english.py:data=data --write-labels=labels
python -m experiments.score --config=configs/suites/english.py:data=data --labels=labels --predictions=team

--write-labels=DIR writes DIR/TASK.jsonl, to be kept, and DIR/hidden/TASK.jsonl, without labels, to be given out.
Predictions are DIR/TASK.jsonl, or DIR/TASK/SEED.jsonl for several runs: lines of {"id": ..., "prediction": ...}.
"""

import json
from pathlib import Path

from ptjax.config import UserError
from ptjax.leaderboard import Suite
from ptjax.leaderboard.board import rank
from ptjax.leaderboard.entry import Entry
from ptjax.leaderboard.references import References, write_labels

from . import cli, show

FLAGS = {
    "--labels": dict(type=Path, metavar="DIR", help="examples with their labels, DIR/TASK.jsonl"),
    "--predictions": dict(action="append", default=[], type=Path, metavar="DIR", help="may be repeated"),
    "--write-labels": dict(
        type=Path, metavar="DIR", help="write the suite's labels there, and hidden copies; score nothing"
    ),
    "--json": dict(action="store_true", help="print one line of JSON instead of a table"),
}


def main(command: cli.Command) -> None:
    flags, suite = command.flags, command.config
    if flags.write_labels:
        if flags.labels or flags.predictions:
            raise UserError("--write-labels makes the labels that --labels reads: give one of them")
        for path in write_labels(suite.tasks, flags.write_labels):
            print(path)
        return
    if not flags.labels or not flags.predictions:
        raise UserError("say where the labels are and what to score: --labels=DIR --predictions=DIR")
    references = {task.name: References.of_labels(task, flags.labels) for task in suite.tasks}
    entries, mistakes = [], []
    for name, folder in names(flags.predictions).items():
        try:
            entries.append(Entry.of_predictions(name, folder, references))
        except UserError as error:
            mistakes.append(str(error))
    if mistakes:
        raise UserError("\n".join(mistakes))
    board = rank(suite, references, entries)
    if flags.json:
        print(json.dumps(board))
    else:
        show.leaderboard(board)


def names(folders: list[Path]) -> dict[str, Path]:
    """The folders' own names, or whole paths where these are not enough to tell them apart."""
    short = [folder.resolve().name for folder in folders]
    named = short if len(set(short)) == len(folders) else [str(folder) for folder in folders]
    if len(set(named)) < len(folders):
        raise UserError("--predictions names one folder twice")
    return dict(zip(named, folders))


if __name__ == "__main__":
    cli.run(main, base=Suite, flags=FLAGS, doc=__doc__, workdir=False, uses_jax=False)
