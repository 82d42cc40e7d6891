"""comparison.json as a page."""

from typing import Any

from ptjax.report import folded
from ptjax.report.comparison.contents import Arm, Contents
from ptjax.report.comparison.curves import curves, learning_rates, scaling
from ptjax.report.comparison.differences import differences
from ptjax.report.comparison.scores import scores, tasks
from ptjax.report.comparison.spent import budget, costs, pairing
from ptjax.report.comparison.verdict import Name, verdict
from ptjax.report.comparison.words import after_words, definitions
from ptjax.report.html import Html, element, page
from ptjax.report.html import definitions as defined


def comparison_page(comparison: dict) -> str:
    """A self-contained HTML page: inline style, script and charts, no request of any kind; it reads without a script.

    Args:
      comparison: comparison.json. Whatever is missing in it, or not a finite number, is shown as a dash.
    """
    made = Contents.read(comparison)
    sections = [
        ("scores", "Scores", scores(made)),
        ("differences", "Differences", differences(made)),
        ("pairing", "Pairing proof", pairing(made)),
        ("budget", "Budget", budget(made)),
        ("curves", "Curves", curves(made)),
        ("learning-rates", "Learning rates", learning_rates(made)),
        ("scaling", "Scaling", scaling(made)),
        ("tasks", "Tasks", tasks(made)),
        ("cost", "Cost", costs(made)),
        ("configs", "Configs", configs(made)),
        ("failed", "Failed", failures(made)),
        ("method", "How to read this", defined(definitions(made), made.made)),
    ]
    return page(f"Comparison: {made.name}", summary(made), sections, data=_numbers(comparison))


def summary(made: Contents) -> Html:
    question = made.question and element("span", made.question, class_="question")
    said = [element("strong", part) if isinstance(part, Name) else part for part in verdict(made)]
    return element("span", question or None, " " if question else None, element("span", *said))


def configs(made: Contents) -> Html | None:
    """Of each arm its difference from the base, and all of it."""
    shown = [arm for arm in made.arms if arm.config or arm.difference]
    parts = [folded.config(arm.series, _config_words(arm), arm.difference, "base", arm.config) for arm in shown]
    return element("div", *parts) if parts else None


def _config_words(arm: Arm) -> str:
    words = [*arm.changes, after_words(arm)]
    return ", ".join(word for word in words if word) or "the base itself"


def failures(made: Contents) -> Html | None:
    note = "These ended with an error and are tried again by the same command. What is told above is without them."
    places = [" · ".join(str(f[k]) for k in ("arm", "run", "task") if f.get(k)) for f in made.failed]
    return folded.errors(note, [(place, f.get("error")) for place, f in zip(places, made.failed)])


def _numbers(comparison: Any) -> Any:
    """The comparison without what is drawn from many points: the page offers it for saving."""
    left_out = {"curves", "curve", "points", "band", "config", "difference", "failed", "base"}

    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: without(v) for k, v in value.items() if k not in left_out or isinstance(v, str)}
        return [without(v) for v in value] if isinstance(value, (list, tuple)) else value

    return without(comparison) if isinstance(comparison, dict) else {}
