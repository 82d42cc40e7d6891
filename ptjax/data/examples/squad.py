"""Extractive questions in the JSON of SQuAD 1.1 and 2.0."""

import json
from collections.abc import Iterator
from typing import Any

import chz

from ptjax.config import UserError
from ptjax.data.examples.answers import checked_answers
from ptjax.data.examples.base import Example, Split
from ptjax.data.examples.files import File, FileExamples, checked_text, filled, unique
from ptjax.data.examples.hidden import hidden_examples
from ptjax.data.files import decode, opened


@chz.chz
class SquadExamples(FileExamples):
    """Questions on contexts, in SQuAD's JSON: {'data': [{'paragraphs': [{'context', 'qas': [{'id', 'question',
    'answers': [{'text', 'answer_start'}], 'is_impossible'}]}]}]}.

    is_impossible (SQuAD 2.0), or no answers in their list, says that the context has no answer. Questions of test that
    have no list of answers hide it. Rajpurkar et al., 2016 (1606.05250) and 2018 (1806.03822).
    """

    def load(self, split):
        read = (pair for file in self.files(split) for pair in filled(file.path, _questions(file, split)))
        return hidden_examples(self, split) or unique(read)


def _questions(file: File, split: Split) -> Iterator[tuple[str, Example]]:
    """(origin, example) of each question."""
    with opened(file.path) as opened_file:
        text = decode(opened_file.read(), file.path, 1)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise UserError(f"{file.path}:{line}: not JSON, or cut off: {error}") from None
    for i, article in enumerate(_get(content, "data", list, file.path)):
        for j, paragraph in enumerate(_get(article, "paragraphs", list, f"{file.path}: data[{i}]")):
            place = f"{file.path}: data[{i}].paragraphs[{j}]"
            context = checked_text(_get(paragraph, "context", str, place), "the context", place)
            for k, question in enumerate(_get(paragraph, "qas", list, place)):
                name = checked_text(_get(question, "id", str, f"{place}.qas[{k}]"), "the id", place)
                origin = f"{place}.qas[{k}] (id {name:.80})"
                example = {
                    "id": file.prefix + name,
                    "question": checked_text(question.get("question"), "the question", origin),
                }
                yield origin, example | {"context": context} | _answers(question, context, split, origin)


def _answers(question: dict, context: str, split: Split, origin: str) -> dict[str, Any]:
    """{'answers': ...}, or {} where they are hidden."""
    impossible = question.get("is_impossible", False)
    if type(impossible) is not bool:
        raise UserError(f"{origin}: is_impossible is true or false, not {impossible!r:.40}")
    given = question.get("answers")
    if impossible and given:
        raise UserError(f"{origin}: it is_impossible, and has answers")
    if given is None and not impossible:
        if split != "test":
            raise UserError(f"{origin}: no answers; only those of test may be hidden")
        return {}
    answers = checked_answers(given or [], context, origin, exact=split == "train")
    if not answers and question.get("is_impossible") is False:
        raise UserError(f"{origin}: no answers, though is_impossible is false")
    return {"answers": answers}


def _get(holder: Any, key: str, kind: type, origin: str) -> Any:
    if not isinstance(holder, dict) or not isinstance(holder.get(key), kind):
        raise UserError(f"{origin}: no SQuAD JSON: an object with {key!r}, a {kind.__name__}, is wanted here")
    return holder[key]
