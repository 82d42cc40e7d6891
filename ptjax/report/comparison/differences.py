"""Differences between arms: of their scores, by task, and of what validation measured."""

from ptjax.report.comparison.contents import APART, SCORE, Contents, Difference, TaskDifference
from ptjax.report.comparison.words import PAIRED, differences_words, interval, metric_words, validation_words
from ptjax.report.figures import NONE, points, probability, thousandths
from ptjax.report.html import Html, element
from ptjax.report.scale import Scale
from ptjax.report.svg import track
from ptjax.report.table import Cell, Column, table

SAME_SEEDS = "The same seeds, so that differences are taken seed by seed; what such runs share, the pairing proof says"
TOLD = "Yes where the interval lacks 0 and p adjusted for the number of pairs is small"


def differences(made: Contents) -> Html | None:
    """Of the scores; a grid of those by task; of validation, a table a question, for only its answers compare."""
    parts = []
    if made.differences:
        parts += [_table("Differences of scores", made.differences, differences_words(made), made.percent)]
        parts += [_by_task(made)]
    for question, metric in dict.fromkeys((d.question, d.metric) for d in made.pretraining):
        pairs = [d for d in made.pretraining if (d.question, d.metric) == (question, metric)]
        words = validation_words(pairs[0], made.percent)
        parts += [_table(f"Differences in validation by {question}", pairs, words, made.percent)]
    return element("div", *parts) if parts else None


def _table(caption: str, pairs: list[Difference], words: str, percent: str) -> Html:
    """A row a pair, its difference around zero."""
    of_scores = pairs[0].metric == SCORE
    unit, said = (100, points) if of_scores else (1, thousandths)
    most = max((unit * abs(v) for d in pairs for v in (d.mean, d.low, d.high) if v is not None), default=1.0)
    scale = Scale.around([-most, most], ticks=8, least=1.0 if of_scores else 0.0)
    several = pairs[0].pairs > 1
    columns = [
        Column("Pair", "ascending", kind="name"),
        Column(f"Difference of {'scores' if of_scores else metric_words(pairs[0].metric)}", about=words),
        Column("p", "ascending", about=f"{'Bootstrap over examples, ' * of_scores}Student's t over seeds"),
        *([Column("p (Holm)", "ascending", about="Adjusted for the number of pairs")] if several else []),
        Column("Told apart", "ascending", kind="word", about=TOLD),
        Column("By seed", "ascending", kind="word", about=SAME_SEEDS),
        Column("Seeds"),
    ]
    rows = []
    for d in pairs:
        cells = [Cell(_pair(d), f"{d.a.name} - {d.b.name}"), _far(d, scale, unit, percent), _probability(d.p)]
        cells += [_probability(d.holm)] if several else []
        cells += [Cell(d.told, d.told), Cell(PAIRED[d.paired], PAIRED[d.paired])]
        rows.append(({}, [*cells, Cell(_seeds(d), min(d.seeds, default=None))]))
    span = f"{said(-scale.high / unit)} to {said(scale.high / unit, True)}"
    side = "right" if of_scores else "left"
    note = f"{words} Bars to the {side} of the line are in favour of the first; they span {span}."
    return element("div", element("p", note, class_="note apart"), table(caption, columns, rows, "fit"))


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


def _far(d: Difference, scale: Scale, unit: int, percent: str) -> Cell:
    if d.mean is None:
        return Cell(NONE, None, "missing")
    said = points if d.metric == SCORE else thousandths
    figures = element("span", said(d.mean, True), class_="mean")
    if d.low is None or d.high is None:
        return Cell(figures, d.mean)
    around = f"{said(d.low)} to {said(d.high)}"
    words = f"{d.a.name} minus {d.b.name}: {said(d.mean, True)}, {percent} interval {around}"
    line = track(scale, unit * d.mean, unit * d.low, unit * d.high, (), words)
    inside = element("span", line, element("span", figures, element("span", around, class_="sub")), class_="zeroed")
    return Cell(inside, d.mean, "apart" if d.told == APART else None)


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
