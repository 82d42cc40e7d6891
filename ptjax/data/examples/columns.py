"""Examples from rows with named columns, whatever they are read from."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import chz

from ptjax.config import UserError
from ptjax.data.examples.answers import checked_answers
from ptjax.data.examples.base import Example, Examples, Split
from ptjax.data.examples.files import checked_characters, checked_text, unique
from ptjax.data.files import listed

Columns = dict[str, Any]  # field of ColumnExamples -> name of a column; of `choices`, names

# What is guessed from names of columns, case aside. Of several columns for one text, the first group that is there.
SEVERAL: tuple[Columns, ...] = (
    {"good": "sentence_good", "bad": "sentence_bad"},  # BLiMP
    {"text": "question", "pair": "context", "answers": "answers"},  # SQuAD
    {"text": "premise", "pair": "question", "choices": ("choice1", "choice2")},  # COPA
    {"text": "ctx", "choices": ("endings",)},  # HellaSwag
    {"text": "context", "choices": ("endings",)},
    {"text": "sent1", "pair": "sent2", "choices": ("ending0", "ending1", "ending2", "ending3")},  # SWAG
    {"text": "goal", "choices": ("sol1", "sol2")},  # PIQA
    {"text": "question", "choices": ("choices",)},
    {"text": "text", "choices": ("choices",)},
    {"words": "tokens"},
    {"words": "words"},
    {"text": "premise", "pair": "hypothesis"},
    {"text": "sentence1", "pair": "sentence2"},
    {"text": "question1", "pair": "question2"},
    {"text": "question", "pair": "sentence"},  # QNLI
    {"text": "question", "pair": "passage"},  # BoolQ
    {"text": "text1", "pair": "text2"},
    {"text": "text_a", "pair": "text_b"},
    {"text": "#1 string", "pair": "#2 string"},  # MRPC
    {"text": "title", "pair": "description"},  # AG News
    {"text": "text", "pair": "pair"},
)
# Else the only one of these that is there.
TEXTS = ("sentence", "text", "review", "question", "content", "document", "comment", "tweet", "utterance", "headline")
TEXTS += ("title", "description", "context", "passage", "paragraph", "premise", "abstract", "body")
LABELS = ("label", "labels", "gold_label", "class", "category", "target", "intent", "sentiment", "score", "similarity")
LABELS += ("quality", "is_duplicate", "relatedness_score", "stars", "rating", "answer", "label-coarse")
WORD_LABELS = ("labels", "tags", "ner_tags", "ner", "pos_tags", "pos", "upos", "chunk_tags")
IDS = ("id", "idx", "guid", "index")
GROUPS = ("uid", "group", "paradigm", "phenomenon")


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """origin: 'file:line', for errors. id: what it has if no column gives one. prefix: what makes an id that a column
    gives unique in the split. group: of a minimal pair, if no column gives one."""

    origin: str
    id: str
    prefix: str
    group: str
    cells: Mapping[str, Any]

    def __getitem__(self, column: str) -> Any:
        if column not in self.cells:
            raise UserError(f"{self.origin}: no column {column!r}; there are {listed(self.cells):.300}")
        return self.cells[column]

    def text(self, column: str) -> str:
        return checked_text(self[column], f"column {column!r}", self.origin)


@chz.chz
class ColumnExamples(Examples):
    """Base of examples from rows. Which columns say what is guessed from their names, unless one of `text`, `words`,
    `choices` and `good` is given; a guess that finds nothing, or several things, is an error that lists the columns."""

    text: str | None = chz.field(default=None, doc="column of the text")
    pair: str | None = chz.field(
        default=None, doc="column of the second text; with answers, of the context; with choices, of what ends the text"
    )
    label: str | None = chz.field(default=None, doc="column of the label; None: guessed, label, class, score, ...")
    id: str | None = chz.field(default=None, doc="column of the ids; None: id or idx, or else counted; '': counted")
    number: bool = chz.field(default=False, doc="labels are numbers, for regression")
    words: str | None = chz.field(default=None, doc="column of lists of words, each with a label in a list")
    answers: str | None = chz.field(
        default=None,
        doc="column of the answers in a context, as SQuAD has them: text is the question, pair the context",
    )
    choices: tuple[str, ...] = chz.field(
        default=(), doc="columns of the choices, or one that holds a list; the label is a number, letter, or the choice"
    )
    first_choice: int = chz.field(default=0, doc="what the label of the first choice is, if a number: 0 or 1")
    good: str | None = chz.field(default=None, doc="column of the acceptable text of a minimal pair")
    bad: str | None = chz.field(default=None, doc="column of the other text")
    group: str | None = chz.field(default=None, doc="column of its phenomenon; None: UID or group, or else the file")
    drop_unlabelled: bool = chz.field(
        default=False, doc="leave out rows of train and validation without a label, instead of refusing them"
    )

    @chz.validate
    def _one_kind(self):
        alone = [name for name in ("words", "answers", "choices", "good") if getattr(self, name)]
        if len(alone) > 1 or (alone in (["words"], ["good"]) and self.text):
            raise ValueError(
                f"examples are of one kind: give text, or one of words, answers, choices, good: not {alone}"
            )
        if (self.good is None) != (self.bad is None):
            raise ValueError("minimal pairs want both columns: examples.good and examples.bad")
        if (self.pair or self.choices or self.answers) and not self.text:
            raise ValueError("examples.pair, choices and answers go with examples.text")
        if self.answers and not self.pair:
            raise ValueError("answers want examples.text (the question) and examples.pair (the context)")
        if self.first_choice not in (0, 1):
            raise ValueError(f"examples.first_choice is 0 or 1, not {self.first_choice}")

    def rows(self, split: Split) -> Iterator[Row]:
        """Rows of a split that is available, in their order; raises UserError naming file and line."""
        raise NotImplementedError

    def load(self, split):
        examples = list(unique(self._examples(split)))
        if split == "test" and all(example.get("label") in (-1.0, "-1") for example in examples):
            for example in examples:  # how data sets that are published hide labels
                del example["label"]
        return examples

    def _examples(self, split: Split) -> Iterator[tuple[str, Example]]:
        columns: Columns = {}
        for row in self.rows(split):
            columns = columns or self._columns(row, split)
            if "label" not in columns and "good" not in columns and "answers" not in columns:
                found = self.label or _first(WORD_LABELS if "words" in columns else LABELS, row.cells)
                columns |= {"label": found} if found else {}
            example = {"id": self._id(row)} | _inputs(row, columns) | self._answer(row, columns, split)
            if self.drop_unlabelled and split != "test" and not example.keys() & {"label", "labels", "answers", "good"}:
                continue
            yield row.origin, example

    def _columns(self, row: Row, split: Split) -> Columns:
        """Those that are given, or guessed."""
        if self.text or self.words or self.good:
            names = ("text", "pair", "words", "answers", "choices", "good", "bad")
            return {name: getattr(self, name) for name in names if getattr(self, name)}
        known = {column.casefold(): column for column in row.cells}
        for group in SEVERAL:
            found = {key: _named(given, known) for key, given in group.items()}
            if split == "test" and "answers" in group:
                found["answers"] = found["answers"] or group["answers"]  # they may be hidden
            if all(found.values()):
                return found
        texts = [known[name] for name in TEXTS if name in known]
        if len(texts) == 1:
            return {"text": texts[0]}
        which = "no column has a name that says it is the text"
        if texts:
            which = f"{listed(texts)} could each be the text"
        raise UserError(
            f"{row.origin}: {which}; the columns are {listed(row.cells):.300}: name them with examples.text, .pair, "
            ".label, ... (and those of a table without a line of names with examples.columns)" + _other_format(row)
        )

    def _id(self, row: Row) -> str:
        column = _first(IDS, row.cells) if self.id is None else self.id
        if not column:
            return row.id
        value = row[column]
        value = "-".join(map(str, value.values())) if isinstance(value, dict) else value  # SuperGLUE's idx
        if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
            raise UserError(f"{row.origin}: the id in column {column!r} is text or an integer, not {value!r:.40}")
        return row.prefix + checked_characters(str(value), f"the id in column {column!r}", row.origin)

    def _answer(self, row: Row, columns: Columns, split: Split) -> Example:
        """What is to be found: {} where it is hidden."""
        if "good" in columns:
            group = self.group or _first(GROUPS, row.cells)
            return {"group": row.text(group) if group else row.group}
        column = columns.get("answers") or columns.get("label")
        value = row.cells.get(column)
        if value is None or value == "":
            if split == "test" or (self.drop_unlabelled and column in row.cells):
                return {}
            what = f"no label in column {column!r}" if column in row.cells else "no column of labels"
            raise UserError(
                f"{row.origin}: {what}; the columns are {listed(row.cells):.300}. examples.label names the right one; "
                "only test may hide labels; examples.drop_unlabelled=True leaves such rows out"
            )
        if "answers" in columns:
            return {"answers": checked_answers(value, row[columns["pair"]], row.origin, exact=split == "train")}
        if "words" in columns:
            words = row[columns["words"]]
            if not isinstance(value, list) or len(value) != len(words):
                raise UserError(f"{row.origin}: column {column!r} wants a list of {len(words)} labels, one a word")
            return {"labels": [_name(label, row.origin) for label in value]}
        if "choices" in columns:
            place = self._place(value, _choices(row, columns), row.origin, split)
            return {} if place is None else {"label": place}
        return {"label": _number(value, row.origin) if self.number else _name(value, row.origin)}

    def _place(self, value: Any, choices: list[str], origin: str, split: Split) -> int | None:
        """Of the right choice, from 0; None where it is hidden."""
        value = value.strip() if isinstance(value, str) else value
        if split == "test" and value in (-1, "-1"):
            return None
        if isinstance(value, str) and value not in choices and len(value) == 1 and value.isascii() and value.isalpha():
            place = ord(value.upper()) - ord("A")
        elif isinstance(value, str) and choices.count(value) == 1 and not value.isdigit():
            place = choices.index(value)
        elif type(value) is int or (isinstance(value, str) and value.isascii() and value.isdigit()):
            place = int(value) - self.first_choice
        else:
            place = -1
        if not 0 <= place < len(choices):
            last = self.first_choice + len(choices) - 1
            raise UserError(
                f"{origin}: the label {value!r:.40} is none of the {len(choices)} choices; it is a number from "
                f"{self.first_choice} to {last} (examples.first_choice), a letter from A, or a choice itself"
            )
        return place


def _inputs(row: Row, columns: Columns) -> Example:
    """What is read of an example."""
    if "good" in columns:
        return {"good": row.text(columns["good"]), "bad": row.text(columns["bad"])}
    if "words" in columns:
        words = row[columns["words"]]
        if not isinstance(words, list) or not words:
            raise UserError(f"{row.origin}: column {columns['words']!r} wants a list of words, not {words!r:.40}")
        return {"words": [checked_text(word, f"a word in {columns['words']!r}", row.origin) for word in words]}
    text = row.text(columns["text"])
    pair = {"pair": row.text(columns["pair"])} if "pair" in columns else {}
    if "answers" in columns:
        return {"question": text, "context": pair["pair"]}
    if "choices" in columns:
        return {"text": " ".join([text, *pair.values()]), "choices": _choices(row, columns)}
    return {"text": text} | pair


def _choices(row: Row, columns: Columns) -> list[str]:
    names = columns["choices"]
    values = row[names[0]] if len(names) == 1 else [row[name] for name in names]
    if not isinstance(values, list) or len(values) < 2:
        raise UserError(f"{row.origin}: at least two choices are wanted: several columns, or one that holds a list")
    return [checked_text(value, "a choice", row.origin) for value in values]


def _name(value: Any, origin: str) -> str:
    """The name of a class."""
    if isinstance(value, bool):
        return str(value).lower()  # as JSON writes it
    if isinstance(value, float):
        raise UserError(f"{origin}: the label {value} is a float: with examples.number=True labels are numbers")
    if not isinstance(value, (str, int)) or not str(value).strip():
        raise UserError(f"{origin}: a label is text or a number, not {value!r:.40}")
    return checked_characters(str(value), "the label", origin)


def _number(value: Any, origin: str) -> float:
    try:
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise ValueError
        number = float(value)
    except (ValueError, OverflowError):
        raise UserError(f"{origin}: the label {value!r:.40} is no number (examples.number)") from None
    if not math.isfinite(number):
        raise UserError(f"{origin}: the label {value!r:.40} is not finite")
    return number


def _named(given: str | tuple[str, ...], known: dict[str, str]) -> str | tuple[str, ...] | None:
    """The columns of these names, if all are there. known: column of a name in small letters."""
    if isinstance(given, str):
        return known.get(given)
    return tuple(known[name] for name in given) if all(name in known for name in given) else None


def _other_format(row: Row) -> str:
    """A hint, where the file looks like one of another class."""
    if {"data", "version"} <= row.cells.keys():
        return ". It looks like SQuAD: examples=SquadExamples"
    endings = {".conllu": "ConlluExamples", ".conll": "ConllExamples"}
    found = next((name for ending, name in endings.items() if f"{ending}:" in f"{row.origin}:"), None)
    return f". It looks like CoNLL: examples={found}" if found else ""


def _first(names: tuple[str, ...], columns: Mapping[str, Any]) -> str | None:
    """The column of the first name that there is, case aside."""
    known = {column.casefold(): column for column in columns}
    return next((known[name] for name in names if name in known), None)
