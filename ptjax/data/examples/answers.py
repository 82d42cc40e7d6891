"""Answers of extractive questions: spans of their contexts, as SQuAD writes them."""

from typing import Any

from ptjax.config import UserError
from ptjax.data.examples.files import checked_characters


def checked_answers(value: Any, context: str, origin: str, *, exact: bool) -> list[dict[str, Any]]:
    """[{'text', 'start'}] from [{'text', 'answer_start'}] or from {'text': [...], 'answer_start': [...]}.

    exact: each has to stand where it says, as it has to for a span to be learned. Raises UserError otherwise, saying
    where it stands.
    """
    if isinstance(value, dict):
        texts, starts = value.get("text"), value.get("answer_start")
        if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
            raise UserError(f"{origin}: answers hold lists 'text' and 'answer_start' of one length")
        value = [{"text": text, "answer_start": start} for text, start in zip(texts, starts)]
    if not isinstance(value, list):
        raise UserError(f"{origin}: answers are a list, not {type(value).__name__}")
    answers = []
    for answer in value:
        text = answer.get("text") if isinstance(answer, dict) else None
        start = answer.get("answer_start") if isinstance(answer, dict) else None
        if not isinstance(text, str) or not text or type(start) is not int:
            raise UserError(
                f"{origin}: an answer has a 'text' and an integer 'answer_start', this one is {answer!r:.80}"
            )
        checked_characters(text, "an answer", origin)
        if exact and not (start >= 0 and context.startswith(text, start)):
            where = _found(text, start, context)
            raise UserError(f"{origin}: the answer {text!r:.80} does not stand at {start} of its context: {where}")
        answers.append({"text": text, "start": start})
    return answers


def _found(text: str, start: int, context: str) -> str:
    places = [place for place in range(len(context)) if context.startswith(text, place)]
    if not places:
        return "it stands nowhere in it"
    return f"it stands at {min(places, key=lambda place: abs(place - start))}"
