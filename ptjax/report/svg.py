"""Charts as inline SVG. Their colours are CSS classes of the page: c0, c1, ... a series each."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ptjax.report.figures import number
from ptjax.report.html import Html, element
from ptjax.report.scale import Scale
from ptjax.report.series import Series

# A chart's own units are half pixels, so that whole numbers are fine enough for its lines: that halves a page.
WIDTH, HEIGHT = 680, 360
LEFT, RIGHT, TOP, BOTTOM = 76, 20, 20, 48


@dataclass(frozen=True)
class Line:
    """What a chart shows of one series, in its units: lines (its seeds), dots, a ring around one place, a band (x, low,
    high)."""

    series: Series
    lines: Sequence[Sequence[tuple[float, float]]]
    dots: Sequence[tuple[float, float]] = ()
    ring: tuple[float, float] | None = None
    band: Sequence[tuple[float, float, float]] = ()

    def places(self) -> Iterator[tuple[float, float]]:
        for line in self.lines:
            yield from line
        yield from self.dots
        for x, low, high in self.band:
            yield from ((x, low), (x, high))


def track(scale: Scale, mean: float | None, low: float | None, high: float | None, seeds: Sequence, title: str) -> Html:
    """A dot with its interval and a ring a seed, in per cent of whatever width the page gives it. Over `track_grid`."""
    marks = [element("use", href="#track-grid")]
    if low is not None and high is not None:
        a, b = _percent(scale.at(low)), _percent(scale.at(high))
        marks.append(element("line", x1=a, x2=b, y1="50%", y2="50%", class_="whisker"))
    for value in seeds:
        marks.append(element("circle", cx=_percent(scale.at(value)), cy="50%", r=2.5, class_="seed"))
    if mean is not None:
        marks.append(element("circle", cx=_percent(scale.at(mean)), cy="50%", r=4, class_="dot"))
    return element("svg", element("title", title), *marks, class_="track", role="img")


def track_grid(scale: Scale) -> Html:
    """The ticks of a scale, drawn once for all tracks of a page."""
    places = [_percent(x) for x, _ in scale.ticks()]
    lines = [element("line", x1=x, x2=x, y1=0, y2="100%", class_="grid") for x in places]
    symbol = element("symbol", *lines, id="track-grid", overflow="visible")
    return element("svg", symbol, class_="symbols", width=0, height=0, aria_hidden="true")


def track_axis(scale: Scale) -> Html:
    """The labels below tracks of the same scale."""
    ticks = scale.ticks()
    ticks = ticks[:: (len(ticks) + 5) // 6]
    texts = [element("text", label, x=_percent(x), y=11, text_anchor="middle") for x, label in ticks]
    return element("svg", *texts, class_="track axis", aria_hidden="true")


def chart(
    lines: Sequence[Line],
    title: str,
    x_ticks: Sequence[tuple[float, str]] | None = None,
    least: float = 0.01,
    limit: float = math.inf,
) -> Html:
    """Lines over a common x axis, which begins at 0; y from round number to round number. The first line is on top.

    Args:
      x_ticks: value and label of each tick, for an axis that is no count of steps.
      least, limit: of the y axis, as Scale.around has them.
    """
    places = [place for line in lines for place in line.places()]
    y = Scale.around((value for _, value in places), least=least, limit=limit)
    if x_ticks:
        values = [value for value, _ in x_ticks]
        margin = (max(values) - min(values)) * 0.08 or 1.0
        x = Scale(min(values) - margin, max(values) + margin, margin)
        below = [(x.at(value), label) for value, label in x_ticks]
    else:
        last = max((step for step, _ in places), default=1.0)
        x = Scale.around([0.0, *(step for step, _ in places)], ticks=max(1, min(4, int(last))))
        below = x.ticks()
    across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def at(place: tuple[float, float]) -> tuple[int, int]:
        return round(LEFT + across * x.at(place[0])), round(TOP + down * (1 - y.at(place[1])))

    heights = [(round(TOP + down * (1 - place)), label) for place, label in y.ticks()]
    marks = [element("path", d="".join(f"M{LEFT} {h}h{across}" for h, _ in heights), class_="grid")]
    marks += [element("text", label, x=LEFT - 12, y=h, class_="y") for h, label in heights]
    for place, label in _apart(below):
        anchor = "end" if place > 0.99 else "middle"
        marks.append(element("text", label, x=round(LEFT + across * place), y=HEIGHT - 10, text_anchor=anchor))
    marks += [_drawn(line, at) for line in reversed(lines)]
    box = f"0 0 {WIDTH} {HEIGHT}"
    return element("svg", element("title", title), *marks, class_="chart", role="img", viewBox=box)


def _drawn(line: Line, at: Callable[[tuple[float, float]], tuple[int, int]]) -> Html:
    parts = [element("title", line.series.name)]
    if len(line.band) > 1:
        around = [at((x, low)) for x, low, _ in line.band] + [at((x, high)) for x, _, high in reversed(line.band)]
        parts.append(element("path", d=f"{_path(around)}z", class_="band"))
    several = [[at(place) for place in one] for one in line.lines if len(one) > 1]
    if several:
        parts.append(element("path", d="".join(map(_path, several))))
    alone = [at(one[0]) for one in line.lines if len(one) == 1]
    for places, kind in ((alone, "dots"), ([at(place) for place in line.dots], "seeds")):
        if places:  # a line of no length has round ends, which are a dot
            parts.append(element("path", d="".join(f"M{x} {y}h0" for x, y in places), class_=kind))
    if line.ring:
        x, y = at(line.ring)
        parts.append(element("circle", cx=x, cy=y, r=9, class_="ring"))
    return element("g", *parts, **line.series.attributes)


def _path(places: list[tuple[int, int]]) -> str:
    """Relative, which is half the bytes; a minus separates by itself."""
    moves = [f"{x1 - x0} {y1 - y0}" for (x0, y0), (x1, y1) in zip(places, places[1:])]
    return f"M{places[0][0]} {places[0][1]}l{' '.join(moves)}".replace(" -", "-")


def _apart(ticks: Sequence[tuple[float, str]], least: float = 0.14) -> list[tuple[float, str]]:
    """Ticks without those whose labels would touch the one before."""
    kept: list[tuple[float, str]] = []
    for at, label in ticks:
        if not kept or at - kept[-1][0] >= least:
            kept.append((at, label))
    return kept


def thin(points: Sequence, most: int) -> list[tuple[float, float]]:
    """At most `most` points, each the mean of its neighbours; what is no pair of finite numbers is left out."""
    pairs = [p for p in points or () if isinstance(p, (list, tuple)) and len(p) == 2]
    pairs = [(number(step), number(value)) for step, value in pairs]
    kept = [(step, value) for step, value in pairs if step is not None and value is not None]
    if len(kept) <= most:
        return kept
    edges = [round(k * len(kept) / most) for k in range(most + 1)]
    bins = [kept[a:b] for a, b in zip(edges, edges[1:])]
    return [(sum(s for s, _ in b) / len(b), sum(v for _, v in b) / len(b)) for b in bins]


def _percent(x: float) -> str:
    return f"{100 * x:.1f}%".replace(".0%", "%")
