"""Test examples whose labels somebody else keeps: lines of JSON, an `Example` each, as participants get them."""

import json
from collections.abc import Iterator
from typing import Any

from ptjax.config import UserError
from ptjax.data.examples.base import Example, Split
from ptjax.data.examples.files import FileExamples, checked_text, filled, unique
from ptjax.data.files import listed, numbered_lines

KINDS = ({"text"}, {"text", "pair"}, {"words"}, {"question", "context"}, {"text", "choices"})
"""What an example has beside its id. Minimal pairs are not hidden: they are their labels."""


def hidden_examples(source: FileExamples, split: Split) -> list[Example] | None:
    """Those of a split whose files are lines of JSON, by their names, though the source's format is another; None where
    they are not.

    Raises UserError: a line that is no such example, or has a label; any split but test.
    """
    files = source.files(split)
    if not any(_is_lines_of_json(file.path) for file in files):
        return None
    reader = type(source).__name__
    return list(unique(pair for file in files for pair in filled(file.path, _read(file.path, reader, split))))


def is_hidden(record: Any) -> bool:
    """Whether it has what an example without its label has, and nothing else."""
    return isinstance(record, dict) and "id" in record and record.keys() - {"id"} in KINDS


def _is_lines_of_json(path: str) -> bool:
    return path.removesuffix(".gz").removesuffix(".zst").lower().endswith((".jsonl", ".ndjson"))


def _read(path: str, reader: str, split: Split) -> Iterator[tuple[str, Example]]:
    """(origin, example)"""
    for number, line in numbered_lines(path):
        if not line.strip():
            continue
        origin = f"{path}:{number}"
        try:
            example = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{origin}: not a JSON object, or cut off: {error}") from None
        if split != "test" or not is_hidden(example):
            what = listed(example) if isinstance(example, dict) else type(example).__name__
            raise UserError(
                f"{origin}: of lines of JSON {reader} reads only test examples without labels, as experiments.score "
                f"writes them; this one, of {split}, holds {what:.200}. JsonExamples reads others"
            )
        yield origin, {key: _checked(value, key, origin) for key, value in example.items()}


def _checked(value: Any, key: str, origin: str) -> Any:
    if key not in ("words", "choices"):
        return checked_text(value, key, origin)
    if not isinstance(value, list) or not value:
        raise UserError(f"{origin}: {key} is a list of texts, not {value!r:.40}")
    return [checked_text(one, f"one of {key}", origin) for one in value]
