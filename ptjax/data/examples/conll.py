"""Sentences of labelled words: CoNLL's columns, and CoNLL-U."""

import re
from collections.abc import Iterator
from typing import Literal

import chz

from ptjax.config import UserError
from ptjax.data.examples.base import Example, Split
from ptjax.data.examples.files import File, FileExamples, filled, unique
from ptjax.data.examples.hidden import hidden_examples
from ptjax.data.files import numbered_lines

Line = tuple[int, str]  # number, and text without its end


@chz.chz
class ConllExamples(FileExamples):
    """A word a line, columns between tabs, or else blanks; an empty line between sentences; -DOCSTART- lines mean
    nothing. A test file of words alone hides its labels."""

    word: int = chz.field(default=0, doc="column of the words, from 0; negative: from the end")
    label: int = chz.field(default=-1, doc="column of the labels, from 0; negative: from the end")

    def load(self, split):
        read = (pair for file in self.files(split) for pair in filled(file.path, self._sentences(file, split)))
        return hidden_examples(self, split) or unique(read)

    def _sentences(self, file: File, split: Split) -> Iterator[tuple[str, Example]]:
        width = 0
        for lines in _blocks(file.path):
            words, labels = [], []
            for number, line in lines:
                origin = f"{file.path}:{number}"
                cells = line.split("\t") if "\t" in line else re.split(" +", line.strip(" "))
                if cells[0] == "-DOCSTART-":
                    continue
                width = width or len(cells)
                if len(cells) != width:
                    raise UserError(f"{origin}: {len(cells)} columns, the lines before have {width}: {line!r:.80}")
                place = _column(self.word, width, "word", origin)
                words.append(_filled(cells[place], "word", origin))
                hidden = width == 1 and split == "test"
                if not hidden and _column(self.label, width, "label", origin) == place:
                    raise UserError(f"{origin}: column {place} is the word's, and the label's; examples.label names it")
                if not hidden:
                    labels.append(_filled(cells[self.label], "label", origin))
            if words:
                example = {"id": f"{file.name}-{lines[0][0]}", "words": words} | ({"labels": labels} if labels else {})
                yield f"{file.path}:{lines[0][0]}", example


@chz.chz
class ConlluExamples(FileExamples):
    """CoNLL-U, of Universal Dependencies: ten columns between tabs, comments. Ranges of words that are written as one
    (1-2) and nodes that are not written (1.1) are left out. Ids are the comments sent_id."""

    label: Literal["upos", "xpos", "feats", "deprel"] = chz.field(default="upos", doc="what a word is labelled with")

    def load(self, split):
        read = (pair for file in self.files(split) for pair in filled(file.path, self._sentences(file, split)))
        return hidden_examples(self, split) or unique(read)

    def _sentences(self, file: File, split: Split) -> Iterator[tuple[str, Example]]:
        place = {"upos": 3, "xpos": 4, "feats": 5, "deprel": 7}[self.label]
        for lines in _blocks(file.path):
            words, labels, name = [], [], f"{file.name}-{lines[0][0]}"
            for number, line in lines:
                origin = f"{file.path}:{number}"
                if line.startswith("#"):
                    comment = re.fullmatch(r"#\s*sent_id\s*=\s*(.*\S)\s*", line)
                    name = file.prefix + comment[1] if comment else name
                    continue
                cells = line.split("\t")
                if len(cells) != 10:
                    raise UserError(f"{origin}: {len(cells)} columns; CoNLL-U has 10, between tabs: {line!r:.80}")
                if re.fullmatch(r"\d+[-.]\d+", cells[0]):
                    continue
                if cells[0] != str(len(words) + 1):
                    raise UserError(f"{origin}: the word's number is {cells[0]!r:.40}, not {len(words) + 1}")
                words.append(_filled(cells[1], "word", origin))
                labels.append(_filled(cells[place], self.label, origin))
            if not words:
                continue
            origin = f"{file.path}:{lines[0][0]}"
            known = self.label == "feats" or "_" not in labels  # a word without features is one
            if not known and (split != "test" or set(labels) != {"_"}):
                raise UserError(f"{origin}: its word {labels.index('_') + 1} has no {self.label} (_)")
            yield origin, {"id": name, "words": words} | ({"labels": labels} if known else {})


def _blocks(path: str) -> Iterator[list[Line]]:
    """Lines between empty lines."""
    block: list[Line] = []
    for number, line in numbered_lines(path):
        line = line.rstrip("\r\n")
        if line.strip(" \t"):  # of Unicode's other blanks, some are words
            block.append((number, line))
        elif block:
            yield block
            block = []
    if block:
        yield block


def _column(column: int, width: int, what: str, origin: str) -> int:
    if not -width <= column < width:
        raise UserError(f"{origin}: no column {column} (examples.{what}): there are {width}, from 0")
    return column % width


def _filled(cell: str, what: str, origin: str) -> str:
    if not cell.strip():
        raise UserError(f"{origin}: the {what} is empty")
    return cell
