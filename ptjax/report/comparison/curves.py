"""Pre-training over the budget, learning rates, and scaling."""

import math

from ptjax.report.comparison.contents import Arm, Contents, Fit, Question
from ptjax.report.comparison.words import edge_words, fitted, interval, metric_words, rates_words, scaling_words, tried
from ptjax.report.figures import NONE, count, plain, points, probability, rate, whole
from ptjax.report.html import Html, element
from ptjax.report.series import Series, legend
from ptjax.report.svg import Line, chart, thin
from ptjax.report.table import Cell, Column, table

PLACES = 4_000  # of all curves of a page
POINTS_AXIS = {"least": 5.0, "limit": 100.0}


def curves(made: Contents) -> Html | None:
    """A chart a question, because only its answers compare."""
    drawing = sum(len(q.lines) for q in made.questions)
    most = min(60, max(12, PLACES // max(drawing, 1)))
    panels = [panel for panel in (_curve(q, made.unit, most) for q in made.questions) if panel]
    if not panels:
        return None
    words = (
        f"On validation, a line a seed, over {made.unit} spent. One chart a question: what is asked of different "
        "objectives is unlike, so that their losses on one axis would compare nothing. What lies in the first tenth, "
        "where all fall fast, is left out."
    )
    return element("div", element("p", words, class_="note"), element("div", *panels, class_="panels"))


def _curve(q: Question, unit: str, most: int) -> Html | None:
    found: dict[Series, list] = {}
    for series, line in q.lines:
        line = thin(line, most)
        if line:
            found.setdefault(series, []).append(line)
    if not found:
        return None
    last = max(x for lines in found.values() for line in lines for x, _ in line)
    shown = [Line(series, [_late(line, last / 10) for line in lines]) for series, lines in found.items()]
    words = f"{metric_words(q.metric)} over {unit}"
    picture = chart(shown, f"{q.question}: {words}")
    keys = legend(list(found))
    return element(
        "article", element("h3", q.question), element("p", words, class_="about"), keys, picture, class_="panel"
    )


def _late(line: list[tuple[float, float]], begin: float) -> list[tuple[float, float]]:
    kept = [(x, y) for x, y in line if x >= begin]
    return kept if len(kept) > 1 else line


def learning_rates(made: Contents) -> Html | None:
    """A panel an arm: its own loss over the rates tried; one for all: scores over them. And what to mind."""
    words = rates_words(made)
    if not tried(made):
        return element("p", words, class_="note") if words else None
    warned = [element("p", element("strong", "⚠ "), words, class_="warning") for words in edge_words(made)]
    panels = [_loss(arm) for arm in tried(made) if arm.rates.means("loss")]
    lines, rates = [], set()
    for arm in tried(made):
        means = arm.rates.means("score")
        if means:
            rates |= set(means)
            lines.append(_over(arm, {k: [100 * v for v in values] for k, values in means.items()}))
    if lines:
        picture = chart(lines, "score over learning rates", _multiples(rates), **POINTS_AXIS)
        about = element("p", "mean of the trained tasks on validation", class_="about")
        keys = legend([line.series for line in lines])
        panels.append(element("article", element("h3", "All arms"), about, keys, picture, class_="panel"))
    words += " A ring is around the selected one. Losses have a chart an arm, since those of unlike objectives do not "
    words += "compare; scores share one."
    return element("div", element("p", words, class_="note"), *warned, element("div", *panels, class_="panels"))


def _loss(arm: Arm) -> Html:
    means = arm.rates.means("loss")
    picture = chart([_over(arm, means)], f"{arm.name}: loss over learning rates", _multiples(set(means)))
    selected = f"; selected {rate(arm.rates.peak)}" if arm.rates.peak is not None else ""
    words = element("p", f"validation loss{selected}", class_="about")
    return element("article", element("h3", arm.series.key()), words, picture, class_="panel")


def _over(arm: Arm, means: dict[float, list[float]]) -> Line:
    places = {math.log10(k): sum(v) / len(v) for k, v in means.items()}
    dots = [(math.log10(k), v) for k, values in means.items() for v in values]
    at = math.log10(arm.rates.selected) if arm.rates.selected in means else None
    return Line(arm.series, [sorted(places.items())], dots, None if at is None else (at, places[at]))


def _multiples(rates: set[float]) -> list[tuple[float, str]]:
    return [(math.log10(k), f"×{k:g}") for k in sorted(rates)]


def scaling(made: Contents) -> Html | None:
    """A panel a fit, over the logarithm of FLOPs, and a table of the slopes."""
    if not made.fits:
        return None
    panels = [_fit(fit, fitted(made, fit), made.percent) for fit in made.fits if fit.points]
    columns = [
        Column("Curve", "ascending", kind="name"),
        Column("Of", "ascending", kind="word"),
        Column("Slope", about="Points for ten times the FLOPs, or an exponent"),
        Column("p", "ascending", about="That the slope is 0"),
        Column("Sizes", about="Different sizes, on which the slope and p rest"),
        Column("R²"),
        Column("Form", "ascending", kind="word"),
    ]
    rows = []
    for fit in made.fits:
        s, said = fit.slope, points if fit.y == "score" else plain
        around = interval(s, said).strip(" []").replace(", ", " to ")
        slope = element("span", said(s.mean, True), class_="mean"), around and element("span", around, class_="sub")
        p = probability(fit.p).removeprefix("p\u00a0=\u00a0").removeprefix("p\u00a0") or NONE
        cells = [
            Cell(fit.curve, fit.curve),
            Cell(fitted(made, fit), fitted(made, fit)),
            Cell(slope, s.mean),
            Cell(p, fit.p),
        ]
        cells += [Cell(whole(fit.sizes), fit.sizes)]
        cells += [Cell(NONE if fit.r2 is None else f"{fit.r2:.2f}", fit.r2), Cell(fit.form or NONE, fit.form, "prose")]
        rows.append(({}, cells))
    words = (
        f"Arms of one curve over the FLOPs that they spent, a dot a run, with the fitted line and its {made.percent} "
        f"band. {scaling_words()}"
    )
    note = element("p", words, class_="note")
    return element("div", note, element("div", *panels, class_="panels"), table("Slopes", columns, rows, "fit"))


def _fit(fit: Fit, of: str, percent: str) -> Html:
    unit = 100 if fit.y == "score" else 1
    of_arm: dict[Series, list] = {}
    for series, x, y in fit.points:
        of_arm.setdefault(series, []).append((math.log10(x), unit * y))
    band = [(math.log10(x), unit * low, unit * high) for x, _, low, high in fit.band]
    middle = [(math.log10(x), unit * mid) for x, mid, _, _ in fit.band]
    lines = [Line(series, [[place] for place in places]) for series, places in of_arm.items()]
    lines.append(Line(Series(None, f"fit, {percent}"), [middle], band=band))
    across = [x for line in lines for x, _ in line.places()]
    axis = POINTS_AXIS if unit == 100 else {}
    picture = chart(lines, f"{fit.curve}: {of} over FLOPs", _powers(min(across), max(across)), **axis)
    about = element("p", f"{of} over FLOPs of a run", class_="about")
    return element("article", element("h3", fit.curve), about, legend(list(of_arm)), picture, class_="panel")


def _powers(low: float, high: float) -> list[tuple[float, str]]:
    """1, 2, 5, 10, ... that enclose 10**low to 10**high; over more than three decades the powers of ten alone."""
    steps = (1, 2, 5) if high - low < 3 else (1,)
    ticks = [math.log10(k) + e for e in range(math.floor(low) - 1, math.ceil(high) + 2) for k in steps]
    first = max(t for t in ticks if t <= low + 1e-9)
    last = min(t for t in ticks if t >= high - 1e-9)
    last = last if last > first else first + math.log10(2)
    return [(t, count(round(10**t, 6)).replace(".0\u00a0", "\u00a0")) for t in ticks if first <= t <= last + 1e-9]
