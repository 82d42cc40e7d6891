"""Predictions as files: FOLDER/TASK.jsonl, or FOLDER/TASK/SEED.jsonl for several seeds, of {"id", "prediction"}."""

import contextlib
import difflib
import json
from collections.abc import Sequence
from pathlib import Path

from ptjax.config import UserError
from ptjax.leaderboard.lines import read_lines
from ptjax.leaderboard.references import References
from ptjax.tasks import Answer, Task

SHOWN = 3  # ids in a message


def find_predictions(folder: Path, tasks: Sequence[str]) -> dict[str, list[Path]]:
    """Files of each task that the folder has some of, a file a seed.

    Raises UserError: no such folder; nothing in it; a file of no task; two forms for one task.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    names = {path.stem for path in folder.glob("*.jsonl")} | {path.parent.name for path in folder.glob("*/*.jsonl")}
    if not names & set(tasks):
        below = [path for path in sorted(folder.iterdir()) if any((path / f"{task}.jsonl").is_file() for task in tasks)]
        if below:
            raise UserError(f"{folder} holds folders of predictions: name one, such as {below[0]}")
    for name in sorted(names - set(tasks)):
        near = difflib.get_close_matches(name, tasks, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"{folder}: there is no task {name}{hint or '.'} Tasks: {', '.join(tasks)}")
    if not names:
        raise UserError(f"{folder} has no predictions: {tasks[0]}.jsonl, or {tasks[0]}/0.jsonl and so on for seeds")
    found = {}
    for task in tasks:
        one, several = folder / f"{task}.jsonl", sorted((folder / task).glob("*.jsonl"), key=_natural)
        if one.is_file() and several:
            raise UserError(f"{folder} has both {one.name} and {several[0].relative_to(folder)}: which is it?")
        if one.is_file() or several:
            found[task] = several or [one]
    return found


def read_predictions(path: Path, references: References) -> list[Answer]:
    """A prediction of each example, in the examples' order.

    Raises UserError where that is not what the file holds.
    """
    task, lines = references.task, read_lines(path)
    wanted = {example["id"] for example in references.examples}
    given = {answer["id"]: answer for _, answer in lines}
    if surplus := [f"{name!r} (line {number})" for number, name in _ids(lines) if name not in wanted]:
        other = "; these are the ids of another task or split" if len(surplus) == len(lines) else ""
        raise UserError(f"{path}: {len(surplus)} of its ids are none of {task.name}'s {references.split} examples, as "
                        f"{_first(surplus)}{other}")  # fmt: skip
    if missing := [repr(example["id"]) for example in references.examples if example["id"] not in given]:
        raise UserError(f"{path}: {len(missing)} of {len(wanted)} examples have no prediction, as {_first(missing)}")
    for number, answer in lines:
        where = f"{path}:{number}, id {answer['id']!r}"
        if "prediction" not in answer:
            raise UserError(f"{where}: there is no 'prediction'")
        try:
            task.check_prediction(answer["prediction"])
        except (ValueError, TypeError, OverflowError) as error:
            raise UserError(f"{where}: {error}") from None
    return [given[example["id"]] for example in references.examples]


def write_predictions(path: Path, answers: Sequence[Answer]) -> None:
    """Ready to hand in."""
    path.parent.mkdir(exist_ok=True)
    lines = [json.dumps({"id": a["id"], "prediction": a["prediction"]}, ensure_ascii=False) + "\n" for a in answers]
    path.write_text("".join(lines), encoding="utf-8")


def check_labels(path: Path, references: References, answers: Sequence[Answer]) -> None:
    """Raises UserError where a task has classes and none of the predicted ones is one of them: it would score nothing
    and say nothing. A class that only training has seen is one."""
    task = references.task
    try:
        predicted, right = task.compared(answers, references.examples)
    except (UserError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: {error}") from error
    if not task.names_classes or (ours := _names(predicted)) & (theirs := _names(right)):
        return
    if not ours & (theirs | _trained(task)):
        raise UserError(
            f"{path}: none of its labels, as {_first(sorted(map(repr, ours)))}, is one of {task.name}'s, as "
            f"{_first(sorted(map(repr, theirs)))}"
        )


def _names(values: Sequence[str | Sequence[str]]) -> set[str]:
    """Of classes of texts, or of lists of tags."""
    return {name for value in values for name in ([value] if isinstance(value, str) else value)}


def _trained(task: Task) -> set[str]:
    """Classes of its training examples, where they can be read."""
    if task.labels:
        return set(task.labels)
    with contextlib.suppress(UserError, KeyError):
        return _names([task.reference(example) for example in task.examples.read("train")])
    return set()


def _ids(lines) -> list[tuple[int, str]]:
    return [(number, answer["id"]) for number, answer in lines]


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _natural(path: Path) -> tuple[int, str]:
    return (int(path.stem) if path.stem.isdecimal() else -1, path.stem)
