"""What is folded away until it is asked for: configs, errors."""

from collections.abc import Iterable, Sequence

from ptjax.report.html import Html, element
from ptjax.report.series import Series

ERROR_CHARACTERS = 4000  # the end of a traceback, which names the error


def config(
    series: Series, words: str, difference: Sequence[tuple[str, str, str]], other: str, fields: dict[str, object]
) -> Html:
    """A config: its difference from that of `other`, and all of it."""
    body = []
    if difference:
        head = element("tr", *(element("th", w, scope="col") for w in ("Field", series.name, other)))
        lines = [
            element("tr", element("th", key, scope="row"), element("td", this), element("td", that))
            for key, this, that in difference
        ]
        made = element("table", element("thead", head), element("tbody", *lines), class_="difference")
        body.append(element("div", made, class_="scroll"))
    if fields:
        lines = [element("div", element("dt", k), element("dd", v)) for k, v in fields.items()]
        whole = element("dl", *lines, class_="config")
        every = element("summary", f"All {len(fields)} fields")
        body.append(element("details", every, whole) if difference else whole)
    head = element("summary", series.key(), element("span", words, class_="note"))
    return element("details", head, *body, class_="run")


def errors(note: str, failed: Iterable[tuple[str, object]]) -> Html | None:
    """Of each failure where it was, in words, and its error."""
    parts = []
    for where, error in failed:
        error = str(error or "no message").strip()
        last = error.splitlines()[-1] if error else ""
        head = element("summary", element("span", where, class_="cell"), element("span", last, class_="note"))
        parts.append(element("details", head, element("pre", error[-ERROR_CHARACTERS:]), class_="run"))
    return element("div", element("p", note, class_="note"), *parts) if parts else None
