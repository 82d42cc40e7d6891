"""What predictions of a task are compared with, and the folder of labels that an organiser keeps."""

import contextlib
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ptjax.checkpoint import disk_errors
from ptjax.config import UserError
from ptjax.data.examples import Example
from ptjax.data.examples.base import Split
from ptjax.leaderboard.lines import read_lines
from ptjax.tasks import Task

LABELS = ("label", "labels", "answers")  # what hidden examples lack
HIDDEN = "hidden"  # of a folder of labels: what participants get


@dataclasses.dataclass(frozen=True, eq=False)
class References:
    """Examples of one split of a task, all with labels. task: resolved, so that its metrics are those of the models
    that are fine-tuned on it. counts: examples of each split that there is."""

    task: Task
    split: Split
    examples: list[Example]
    counts: dict[Split, int]

    @classmethod
    def read(cls, task: Task) -> "References":
        """Of the task's own test split where its labels are known, else of its validation split.

        Raises UserError: neither is known; half of one is; files that cannot be read.
        """
        splits = {split: task.examples.read(split) for split in task.examples.splits}
        counts = {split: len(examples) for split, examples in splits.items()}
        for split in ("test", "validation"):
            if task.labelled(splits.get(split, []), split):
                return cls(_resolved(task, splits.get("train")), split, splits[split], counts)
        raise UserError(f"task {task.name}: neither test nor validation examples have labels; there are {counts}")

    def about(self) -> dict[str, Any]:
        """For a report: its task's name, kind and headline, the split, and examples of each split that are used."""
        task, examples = self.task, self.counts
        if task.limit is not None and "train" in examples:
            examples = examples | {"train": min(task.limit, examples["train"])}
        return {
            "name": task.name,
            "kind": type(task).__name__,
            "metric": task.metric,
            "split": self.split,
            "examples": examples,
        }

    @classmethod
    def of_labels(cls, task: Task, folder: Path) -> "References":
        """Of FOLDER/TASK.jsonl, as `write_labels` writes it: each line an example with its label."""
        path = folder / f"{task.name}.jsonl"
        examples = [example for _, example in read_lines(path)]
        if not task.labelled(examples, str(path)):
            raise UserError(f"{path} has no labels")
        train = None
        with contextlib.suppress(UserError):  # an organiser may have no more than the labels
            train = task.examples.read("train")
        return cls(_resolved(task, train), "test", examples, {"test": len(examples)})


def _resolved(task: Task, train: Sequence[Example] | None) -> Task:
    """Where there are training examples, by them. Raises UserError where they are none of the task's."""
    if train is None or task.zero_shot:
        return task
    task.check_examples(train, labelled=True)
    return task.resolved(train)


def write_labels(tasks: Sequence[Task], folder: Path) -> list[Path]:
    """Writes FOLDER/TASK.jsonl, which the organiser keeps, and FOLDER/hidden/TASK.jsonl, the same examples without
    labels, for participants. Ids are kept: they should not tell the label.

    Raises UserError: a file is there already; a task whose examples are their labels, as minimal pairs.
    """
    texts = {}
    for task in tasks:
        references = References.read(task)
        hidden = [{k: v for k, v in example.items() if k not in LABELS} for example in references.examples]
        if hidden == references.examples:
            raise UserError(
                f"task {task.name}: its examples are their labels, so that nothing can be hidden: leave it out of the "
                "suite that is handed out"
            )
        texts[folder / f"{task.name}.jsonl"] = references.examples
        texts[folder / HIDDEN / f"{task.name}.jsonl"] = hidden
    for path in texts:
        if path.exists():
            raise UserError(f"{path} is there already: name another folder")
    with disk_errors(folder):
        for path, examples in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = [json.dumps(example, ensure_ascii=False) + "\n" for example in examples]
            path.write_text("".join(lines), encoding="utf-8")
    return list(texts)
