"""Scores of arms, and the differences between them."""

import statistics

from ptjax.report.comparison.contents import Arm, Contents, Difference, TaskDifference
from ptjax.report.comparison.words import interval, metric_words
from ptjax.report.figures import NONE, plain, points, probability
from ptjax.report.html import Html, element
from ptjax.report.panels import task_panels
from ptjax.report.scale import Scale
from ptjax.report.svg import track
from ptjax.report.table import Cell, Column, barred, table

LOWER = "On validation, at the end of pre-training; lower is better"


def scores(made: Contents) -> Html:
    """A row an arm: its score, its tasks, what validation gave at the end of pre-training."""
    if not made.arms:
        return element("p", "There are no arms.", class_="note")
    metrics = sorted({arm.metric for arm in made.arms if arm.pretraining.mean is not None})
    columns = [Column("Arm", "ascending", kind="name")]
    if made.tasks:
        columns.append(Column("Score", about="Mean of the tasks' headline metrics, points of 100"))
    columns += [Column(metric_words(m).capitalize(), "ascending", about=LOWER) for m in metrics]
    columns += [Column(task.name, about=f"{task.metric}: mean, and spread over seeds") for task in made.tasks]
    shown = [v for arm in made.arms for v in (arm.score.mean, arm.score.low, arm.score.high) if v is not None]
    scale = Scale.around([100 * v for v in shown], least=5.0, limit=100.0)
    best = {t.name: max((m for _, m in _means(made, t.name)), default=None) for t in made.tasks}
    rows = []
    for arm in made.arms:
        words = " · ".join(w for w in (arm.objective, arm.about) if w)
        cells = [Cell(arm.series.who(words or None), arm.name)]
        if made.tasks:
            cells.append(barred(arm.series, arm.score, scale, made.percent))
        cells += [_validated(arm, metric) for metric in metrics]
        for task in made.tasks:
            r = arm.results.get(task.name)
            if r is None or r.mean is None:
                cells.append(Cell(element("span", NONE, class_="mean"), None, "task missing"))
                continue
            spread = f"±\u00a0{points(statistics.stdev(r.seeds))}" if len(r.seeds) > 1 else None
            figures = element("span", points(r.mean), class_="mean"), spread and element("span", spread, class_="sub")
            cells.append(Cell(figures, r.mean, "task best" if r.mean == best[task.name] else "task"))
        rows.append((arm.series.attributes, cells))
    notes = []
    if made.tasks:
        notes.append(f"Points of 100. Scores with {made.percent} intervals; tasks with their spread over seeds.")
    if metrics and len(made.objectives) > 1:
        notes.append("Validation is on what each arm's own objective asks: values of unlike questions do not compare.")
    return element("div", element("p", " ".join(notes), class_="note"), table("Scores", columns, rows, "standings fit"))


def _means(made: Contents, task: str) -> list[tuple[Arm, float]]:
    found = [(arm, arm.results[task].mean) for arm in made.arms if task in arm.results]
    return [(arm, mean) for arm, mean in found if mean is not None]


def _validated(arm: Arm, metric: str) -> Cell:
    if arm.metric != metric or arm.pretraining.mean is None:
        return Cell(NONE, None, "missing")
    around = interval(arm.pretraining, plain).strip(" []").replace(", ", " to ")
    figures = (
        element("span", plain(arm.pretraining.mean), class_="mean"),
        around and element("span", around, class_="sub"),
    )
    return Cell(figures, arm.pretraining.mean)


def differences(made: Contents) -> Html | None:
    """A row a pair, the score's difference around zero; then a grid of the differences by task."""
    pairs = made.differences
    if not pairs:
        return None
    shown = [100 * abs(v) for d in pairs for v in (d.mean, d.low, d.high) if v is not None]
    most = max(shown, default=1.0)
    scale = Scale.around([-most, most], least=1.0)
    several = any(d.holm is not None for d in pairs) and len(pairs) > 1
    columns = [
        Column("Pair", "ascending", kind="name"),
        Column("Difference of scores", about="The arm named first minus the other, points of 100"),
        Column("p", "ascending", about="Bootstrap over examples, t over seeds"),
        *([Column("p (Holm)", "ascending", about="Adjusted for the number of pairs")] if several else []),
        Column("Told apart", "ascending", kind="word", about="Whether the interval lacks 0"),
        Column("Paired", "ascending", kind="word", about="Seed by seed, on the same documents and first weights"),
        Column("Seeds"),
    ]
    rows = []
    for d in pairs:
        cells = [Cell(_pair(d), f"{d.a.name} - {d.b.name}"), _far(d, scale, made.percent), _probability(d.p)]
        cells += [_probability(d.holm)] if several else []
        known = d.mean is not None
        cells.append(Cell(("no" if d.tie else "yes") if known else NONE, "no" if d.tie else "yes"))
        paired = {True: "paired", False: "unpaired", None: NONE}[d.paired]
        cells += [Cell(paired, paired), Cell(_seeds(d), min(d.seeds, default=None))]
        rows.append(({}, cells))
    words = (
        f"The first arm minus the second, in points of 100, with {made.percent} intervals; bars to the right of the "
        f"line are in favour of the first. They span {points(-scale.high / 100)} to {points(scale.high / 100, True)}."
    )
    return element(
        "div",
        element("p", words, class_="note"),
        table("Differences of scores", columns, rows, "fit"),
        _by_task(made),
    )


def _by_task(made: Contents) -> Html | None:
    names = [task.name for task in made.tasks if any(task.name in d.tasks for d in made.differences)]
    if not names:
        return None
    values = [abs(t.mean) for d in made.differences for t in d.tasks.values() if t.mean is not None]
    most = max(values, default=0) or 1.0
    columns = [Column("Pair", "ascending", kind="name"), *(Column(name) for name in names)]
    rows = []
    for d in made.differences:
        cells = [Cell(_pair(d), f"{d.a.name} - {d.b.name}")]
        cells += [_square(d.tasks.get(name), most, made.percent) for name in names]
        rows.append(({}, cells))
    words = (
        "By task: + and a bar to the right where the first arm is better, − and to the left where the second is; "
        "bold, with a full bar, where the interval lacks 0. Not adjusted for how many there are."
    )
    return element(
        "div", element("p", words, class_="note apart"), table("Differences by task", columns, rows, "by-task fit")
    )


def _pair(d: Difference) -> Html:
    lines = [
        element(
            "span", element("i", class_=f"swatch {s.color}"), element("span", word, s.name, class_="name"), title=s.name
        )
        for word, s in (("", d.a), ("− ", d.b))
    ]
    return element("span", *lines, class_="versus")


def _far(d: Difference, scale: Scale, percent: str) -> Cell:
    if d.mean is None:
        return Cell(NONE, None, "missing")
    figures = element("span", points(d.mean, True), class_="mean")
    if d.low is None or d.high is None:
        return Cell(figures, d.mean)
    around = f"{points(d.low)} to {points(d.high)}"
    words = f"{d.a.name} minus {d.b.name}: {points(d.mean, True)}, {percent} interval {around}"
    drawn = track(scale, 100 * d.mean, 100 * d.low, 100 * d.high, (), words)
    inside = element("span", drawn, element("span", figures, element("span", around, class_="sub")), class_="zeroed")
    return Cell(inside, d.mean, "apart" if not d.tie else None)


def _square(t: TaskDifference | None, most: float, percent: str) -> Cell:
    """A difference on a task: its sign as a direction, its size as a length."""
    if t is None or t.mean is None:
        return Cell(NONE, None, "missing")
    bar = f"{50 + 50 * t.mean / most:.0f}%"
    kind = f"{'plus' if t.mean >= 0 else 'minus'}{' told' if t.told_apart else ''}"
    words = f"{percent} interval{interval(t)}" if t.low is not None else None
    title = ", ".join(w for w in (words, probability(t.p)) if w)
    line = element("line", x1="50%", x2=bar, y1="50%", y2="50%")
    drawn = element("svg", line, class_="bar", aria_hidden="true")
    return Cell(element("span", points(t.mean, True), drawn, class_=f"square {kind}", title=title or None), t.mean)


def _probability(p: float | None) -> Cell:
    return Cell(probability(p).removeprefix("p\u00a0=\u00a0").removeprefix("p\u00a0") or NONE, p)


def _seeds(d: Difference) -> str:
    counts = [f"{n:.0f}" for n in d.seeds]
    return (counts[0] if len(set(counts)) == 1 else " and ".join(counts)) if counts else NONE


def tasks(made: Contents) -> Html | None:
    """A panel a task, arms in their order."""
    shown = [(task, [(a.series, a.results[task.name]) for a, _ in _means(made, task.name)]) for task in made.tasks]
    return task_panels(shown, made.percent)
