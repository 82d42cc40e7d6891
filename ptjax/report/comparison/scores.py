"""Scores of arms, on all tasks and on each."""

import statistics

from ptjax.report.comparison.contents import Arm, Asked, Contents
from ptjax.report.comparison.words import BITS, interval, metric_words, scores_words
from ptjax.report.figures import NONE, plain, points
from ptjax.report.html import Html, element, join
from ptjax.report.panels import task_panels
from ptjax.report.scale import Scale
from ptjax.report.table import Cell, Column, barred, drawn, table


def scores(made: Contents) -> Html:
    """A row an arm: its score, its tasks, what validation gave at the end of pre-training."""
    if not made.arms:
        return element("p", "There are no arms.", class_="note")
    columns = [Column("Arm", "ascending", kind="name")]
    if made.tasks:
        columns.append(Column("Score", about="Mean of the tasks' headline metrics, points of 100"))
    columns += [Column(task.name, about=f"{task.metric}: mean, and spread over seeds") for task in made.tasks]
    columns += [_validation(one) for one in made.asked]
    shown = [v for arm in made.arms for v in (arm.score.mean, *drawn(arm.score)) if v is not None]
    scale = Scale.around([100 * v for v in shown], least=5.0, limit=100.0)
    best = {t.name: max((m for _, m in _means(made, t.name)), default=None) for t in made.tasks}
    rows = []
    for arm in made.arms:
        words = " · ".join(w for w in (arm.objective, arm.about, arm.lacking) if w)
        cells = [Cell(arm.series.who(words or None), arm.name)]
        if made.tasks:
            cells.append(barred(arm.series, arm.score, scale, made.percent))
        for task in made.tasks:
            r = arm.results.get(task.name)
            if r is None or r.mean is None:
                cells.append(Cell(element("span", NONE, class_="mean"), None, "task missing"))
                continue
            spread = f"±\u00a0{points(statistics.stdev(r.seeds))}" if len(r.seeds) > 1 else None
            figures = element("span", points(r.mean), class_="mean"), spread and element("span", spread, class_="sub")
            cells.append(Cell(figures, r.mean, "task best" if r.mean == best[task.name] else "task"))
        cells += [_validated(arm, one) for one in made.asked]
        rows.append((arm.series.attributes, cells))
    words = scores_words(made)
    if made.tasks:
        words += " Tasks have their spread over seeds; bold is the highest mean, whether or not it can be told apart. "
        words += "Bars end at 0 and 100, figures do not."
    return element("div", element("p", words, class_="note"), table("Scores", columns, rows, "standings fit"))


def _validation(one: Asked) -> Column:
    """Of one question alone: values of two in a column would have an order, which says nothing."""
    name = join([f"{metric_words(one.metric)}, ", element("span", one.question, class_="sub")])
    about = f"On validation by {one.question}, at the end of pre-training; lower is better."
    return Column(name, "ascending", about=f"{about} {BITS}" if one.metric == "bits_per_byte" else about)


def _means(made: Contents, task: str) -> list[tuple[Arm, float]]:
    found = [(arm, arm.results[task].mean) for arm in made.arms if task in arm.results]
    return [(arm, mean) for arm, mean in found if mean is not None]


def _validated(arm: Arm, one: Asked) -> Cell:
    if arm not in one.arms:
        return Cell(NONE, None, "missing")
    around = interval(arm.pretraining, plain).strip(" []").replace(", ", " to ")
    figures = (
        element("span", plain(arm.pretraining.mean), class_="mean"),
        around and element("span", around, class_="sub"),
    )
    return Cell(figures, arm.pretraining.mean)


def tasks(made: Contents) -> Html | None:
    """A panel a task, arms in their order."""
    shown = [(task, [(a.series, a.results[task.name]) for a, _ in _means(made, task.name)]) for task in made.tasks]
    return task_panels(shown, made.percent)
