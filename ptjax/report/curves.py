"""What happened while the submissions were trained."""

import math
from collections import defaultdict

from ptjax.report.board import Board, Result
from ptjax.report.figures import rate
from ptjax.report.html import Html, element
from ptjax.report.series import legend
from ptjax.report.svg import Line, chart, thin
from ptjax.report.values import sequence

PLACES = 12_000  # of all curves of a page: 10 submissions on 10 tasks with 3 seeds stay below 300 kB
POINTS_AXIS = {"least": 5.0, "limit": 100.0}


def training(board: Board) -> Html | None:
    """A panel a task: loss, and the headline metric on validation, of the selected learning rate's seeds."""
    drawn = {task.name: [(s, selected(r)) for s, r in board.results(task)] for task in board.tasks}
    curves = [c for found in drawn.values() for _, chosen in found for c in chosen]
    drawing = sum(bool(sequence(c.get(name))) for c in curves for name in ("loss", "validation"))
    most = min(60, max(12, PLACES // max(drawing, 1)))
    panels, seen = [], {}
    for task in board.tasks:
        charts = []
        for name, words, unit in (("loss", "training loss", 1), ("validation", f"validation {task.metric}", 100)):
            shown = []
            for s, chosen in drawn[task.name]:
                lines = [thin(curve.get(name), most) for curve in chosen]
                lines = [[(step, unit * value) for step, value in line] for line in lines if line]
                if lines:
                    shown.append(Line(s.series, lines))
                    seen[s.series.index] = s.series
            if shown:
                points = POINTS_AXIS if unit == 100 else {}
                picture = chart(shown, f"{task.name}: {words} over steps", **points)
                charts.append(element("figure", element("figcaption", words), picture))
        if charts:
            panels.append(element("article", element("h3", task.name), *charts, class_="panel pair"))
    if not panels:
        return None
    note = (
        "Of the selected learning rate, a line a seed, over optimizer steps; where there are more points than can be "
        "seen, each is the mean of its neighbours. Each chart has its own axes."
    )
    keys = legend([seen[k] for k in sorted(seen)])
    return element("div", element("p", note, class_="note"), keys, element("div", *panels, class_="panels pairs"))


def selected(result: Result) -> list[dict]:
    """The curves of the selected rate; all of them where no rate was selected."""
    of_rate = [c for c in result.curves if c.get("learning_rate") == result.learning_rate]
    return of_rate or result.curves


def learning_rates(board: Board) -> Html | None:
    """A panel a task: the validation headline over the grid, where there is a grid."""
    panels, seen = [], {}
    for task in board.tasks:
        lines, rates = [], set()
        for s, result in board.results(task):
            by_rate = defaultdict(list)
            for learning_rate, value in result.grid:
                by_rate[learning_rate].append(100 * value)
            if not by_rate:
                continue
            rates |= set(by_rate)
            means = {math.log10(k): sum(v) / len(v) for k, v in by_rate.items()}
            dots = [(math.log10(k), v) for k, values in by_rate.items() for v in values if len(values) > 1]
            at = math.log10(result.learning_rate) if result.learning_rate in by_rate else None
            lines.append(Line(s.series, [sorted(means.items())], dots, None if at is None else (at, means[at])))
            seen[s.series.index] = s.series
        if len(rates) > 1:
            ticks = [(math.log10(k), rate(k)) for k in sorted(rates)]
            picture = chart(lines, f"{task.name}: validation {task.metric} over learning rates", ticks, **POINTS_AXIS)
            words = f"validation {task.metric}"
            panels.append(
                element(
                    "article", element("h3", task.name), element("p", words, class_="about"), picture, class_="panel"
                )
            )
    if not panels:
        return None
    note = (
        "Validation, in points, over the learning rates tried: means, seeds as dots, a ring around the selected rate."
    )
    keys = legend([seen[k] for k in sorted(seen)])
    return element("div", element("p", note, class_="note"), keys, element("div", *panels, class_="panels"))


def pretraining(board: Board) -> Html | None:
    """Validation loss over pre-training, a panel an objective: losses of different objectives are not comparable."""
    by_objective = defaultdict(list)
    for s in board.submissions:
        line = thin(s.pretraining.get("curve"), 60)
        if line:
            by_objective[str(s.pretraining.get("objective") or "objective not known")].append((s, line))
    if not by_objective:
        return None
    panels = []
    for objective, found in by_objective.items():
        picture = chart([Line(s.series, [line]) for s, line in found], f"{objective}: validation loss over steps")
        keys = legend([s.series for s, _ in found])
        panels.append(element("article", element("h3", objective), keys, picture, class_="panel"))
    note = "Validation loss over steps. One chart an objective, because losses of different objectives do not compare."
    return element("div", element("p", note, class_="note"), element("div", *panels, class_="panels"))
