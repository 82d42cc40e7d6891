"""Tables that the page's script sorts by their headings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ptjax.report.figures import NONE, number, points
from ptjax.report.html import Html, element
from ptjax.report.scale import Scale
from ptjax.report.series import Series
from ptjax.report.svg import track
from ptjax.report.values import Interval


@dataclass(frozen=True)
class Column:
    """A heading. `first` is the order that one click gives; kinds are classes of the style."""

    name: str
    first: Literal["ascending", "descending"] = "descending"
    kind: Literal["number", "name", "word"] = "number"
    about: str | None = None
    sorted: bool = False


@dataclass(frozen=True)
class Cell:
    """What is shown, and what it is sorted by: a number or a text; None is always last."""

    content: Any
    by: Any = None
    kind: str | None = None


def table(
    caption: str, columns: Sequence[Column], rows: Sequence[tuple[dict[str, Any], Sequence[Cell]]], kind: str = ""
) -> Html:
    """Rows are attributes of their <tr> and a cell a column; the cell of a column of names is the row's heading."""
    headings = []
    for column in columns:
        button = element("button", column.name, type="button", title=column.about)
        order = column.first if column.sorted else "none"
        headings.append(
            element("th", button, scope="col", class_=f"is-{column.kind}", aria_sort=order, data_first=column.first)
        )
    body = []
    for attributes, cells in rows:
        drawn = []
        for column, cell in zip(columns, cells, strict=True):
            by = cell.by if isinstance(cell.by, str) else number(cell.by)
            named = column.kind == "name"
            drawn.append(
                element(
                    "th" if named else "td",
                    cell.content,
                    scope="row" if named else None,
                    class_=" ".join(w for w in (f"is-{column.kind}", cell.kind) if w),
                    data_by=f"{by:.12g}" if isinstance(by, float) else by,
                )
            )
        body.append(element("tr", *drawn, **attributes))
    inside = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *headings)),
        element("tbody", *body),
        class_=f"sortable {kind}".strip(),
    )
    return element("div", inside, class_="scroll", role="region", aria_label=caption, tabindex="0")


def barred(series: Series, score: Interval, scale: Scale, percent: str) -> Cell:
    """A score in points with its interval, in figures and as a bar on `scale`."""
    mean, low, high = score.mean, score.low, score.high
    if mean is None:
        return Cell(NONE, None, "score missing")
    figures = element("span", points(mean), class_="mean")
    if low is None or high is None:
        return Cell(figures, mean, "score")
    words = f"{series.name}: {points(mean)}, {percent} interval {points(low)} to {points(high)}"
    below = element("span", f"{points(low)} to {points(high)}", class_="sub")
    low, high = drawn(score)
    line = track(scale, 100 * mean, 100 * low, 100 * high, (), words)
    return Cell(element("span", line, element("span", figures, below), class_="barred"), mean, "score")


def drawn(score: Interval) -> tuple[float | None, float | None]:
    """As much of its interval as there can be: t, which knows no end, reaches beyond 0 and 1. Correlations are below
    0."""
    low = None if score.low is None else max(score.low, min(0.0, score.mean or 0.0))
    return low, None if score.high is None else min(score.high, 1.0)
