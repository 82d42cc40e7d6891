"""Results of tasks, a panel each."""

from collections.abc import Sequence

from ptjax.report.figures import points
from ptjax.report.html import Html, element
from ptjax.report.scale import Scale
from ptjax.report.series import Series
from ptjax.report.svg import track, track_axis, track_grid
from ptjax.report.table import drawn
from ptjax.report.values import Measured, SuiteTask, is_count


def task_panels(shown: Sequence[tuple[SuiteTask, Sequence[tuple[Series, Measured]]]], percent: str) -> Html | None:
    """Of each task the means with their intervals and seeds, in the order given, on one axis for all tasks."""
    values = [v for _, found in shown for _, r in found for v in (r.mean, *drawn(r), *r.seeds) if v is not None]
    if not values:
        return None
    scale = Scale.around([100 * v for v in values], ticks=5, least=5.0, limit=100.0)
    panels = []
    for task, found in shown:
        rows = []
        for series, r in found:
            low, high = (None if v is None else 100 * v for v in drawn(r))
            words = f"{series.name}: {points(r.mean)}"
            if low is not None and high is not None:
                words += f", {percent} interval {points(r.low)} to {points(r.high)}"
            if len(r.seeds) > 1:
                words += f"; seeds {', '.join(points(v) for v in r.seeds)}"
            seeds = [100 * v for v in r.seeds] if len(r.seeds) > 1 else []
            rows.append(
                element(
                    "li",
                    element("span", series.name, class_="name", title=series.name),
                    track(scale, 100 * r.mean, low, high, seeds, words),
                    element("span", points(r.mean), class_="value"),
                    **series.attributes,
                )
            )
        axis = element("li", element("span"), track_axis(scale), element("span"), class_="scale")
        body = element("ul", *rows, axis) if rows else element("p", "No results.", class_="note")
        panels.append(element("article", element("h3", task.name), _about(task), body, class_="panel"))
    note = f"Mean and {percent} interval; small dots are seeds. All tasks share one axis, in points of 100."
    return element(
        "div", element("p", note, class_="note"), track_grid(scale), element("div", *panels, class_="panels wide")
    )


def _about(task: SuiteTask) -> Html:
    words = [task.metric, task.kind]
    words += [f"{task.examples[s]:,} {s}" for s in ("train", "validation", "test") if is_count(task.examples.get(s))]
    return element("p", " · ".join(w for w in words if w), class_="about")
