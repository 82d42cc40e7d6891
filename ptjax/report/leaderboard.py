"""leaderboard.json as a page."""

from typing import Any

from ptjax.report.board import Board, Submission, SuiteTask
from ptjax.report.curves import learning_rates, pretraining, training
from ptjax.report.figures import NONE, count, duration, points
from ptjax.report.html import Html, element, page
from ptjax.report.scale import Scale
from ptjax.report.standings import lead_words, name_cell, standings
from ptjax.report.svg import track, track_axis, track_grid
from ptjax.report.table import Cell, Column, table

ERROR_CHARACTERS = 4000  # the end of a traceback, which names the error


def leaderboard_page(board: dict) -> str:
    """A self-contained HTML page: inline style, script and charts, no request of any kind; it reads without a script.

    Args:
      board: leaderboard.json. Whatever is missing in it, or not a finite number, is shown as a dash.
    """
    read = Board.read(board)
    sections = [
        ("standings", "Standings", standings(read)),
        ("tasks", "Tasks", tasks(read)),
        ("training", "Training curves", training(read)),
        ("learning-rates", "Learning rates", learning_rates(read)),
        ("pre-training", "Pre-training", pretraining(read)),
        ("cost", "Cost", costs(read)),
        ("configs", "Configs", configs(read)),
        ("failed", "Failed cells", failures(read)),
        ("method", "How to read this", method(read)),
    ]
    sections = [section for section in sections if section[2]]
    title = f"Leaderboard: {read.suite}"
    links = [element("a", words, href=f"#{anchor}") for anchor, words, _ in sections]
    header = element(
        "header",
        element("h1", title),
        element("p", summary(read), class_="summary"),
        element("nav", *links, aria_label="Sections"),
    )
    parts = [element("section", element("h2", words), content, id=anchor) for anchor, words, content in sections]
    return page(title, header, *parts, data=_scores(board))


def summary(board: Board) -> Html:
    """One sentence: who leads, by what score, and whether the lead is more than noise."""
    tasks = f"{len(board.tasks)} task{'s' * (len(board.tasks) != 1)}"
    ranked = [s for s in board.submissions if s.complete and s.score.mean is not None]
    if not board.submissions:
        return element("span", f"No submissions yet, on {tasks}.")
    if not ranked:
        return element("span", f"No submission has a result on all of {tasks}, so none is ranked.")
    first = ranked[0]
    leaders = [s for s in ranked if s.rank == first.rank]
    score = f"{points(first.score.mean)}{_range(first)} on average over {tasks}"
    if len(ranked) == 1:
        others = " No other is complete." if len(board.submissions) > 1 else " It is the only submission."
        return element("span", element("strong", first.name), f" scores {score}.", others)
    if len(leaders) == 1 and not (first.lead and first.lead.tie):
        lead = f", {lead_words(first.lead)}" if first.lead else ""
        return element("span", element("strong", first.name), f" leads with {score}{lead}.")
    tied = [s.name for s in leaders] if len(leaders) > 1 else [first.name, first.lead.name]
    names = [element("strong", name) for name in tied[:3]] + ([f"{len(tied) - 3} more"] if len(tied) > 3 else [])
    listed = [part for name in names[1:-1] for part in (", ", name)]
    noise = f" tie for the lead: {first.name} has {score}, and what separates them is inside the noise."
    return element("span", names[0], *listed, " and ", names[-1], noise)


def tasks(board: Board) -> Html | None:
    """A panel a task: every submission's mean with its interval and its seeds, on one axis for all tasks."""
    shown = [(task, board.results(task)) for task in board.tasks]
    values = [v for _, found in shown for _, r in found for v in (r.mean, r.low, r.high, *r.seeds) if v is not None]
    if not values:
        return None
    scale = Scale.around([100 * v for v in values], ticks=5, least=5.0, limit=100.0)
    panels = []
    for task, found in shown:
        rows = []
        for submission, r in found:
            low, high = (None if v is None else 100 * v for v in (r.low, r.high))
            words = f"{submission.name}: {points(r.mean)}"
            if low is not None and high is not None:
                words += f", {board.percent} interval {points(r.low)} to {points(r.high)}"
            if len(r.seeds) > 1:
                words += f"; seeds {', '.join(points(v) for v in r.seeds)}"
            seeds = [100 * v for v in r.seeds] if len(r.seeds) > 1 else []
            rows.append(
                element(
                    "li",
                    element("span", submission.name, class_="name", title=submission.name),
                    track(scale, 100 * r.mean, low, high, seeds, words),
                    element("span", points(r.mean), class_="value"),
                    **submission.series.attributes,
                )
            )
        axis = element("li", element("span"), track_axis(scale), element("span"), class_="scale")
        body = element("ul", *rows, axis) if rows else element("p", "No results.", class_="note")
        panels.append(element("article", element("h3", task.name), _about(task), body, class_="panel"))
    note = f"Mean and {board.percent} interval; small dots are seeds. All tasks share one axis, in points of 100."
    return element(
        "div", element("p", note, class_="note"), track_grid(scale), element("div", *panels, class_="panels wide")
    )


def _about(task: SuiteTask) -> Html:
    words = [task.metric, task.kind]
    words += [f"{task.examples[s]:,} {s}" for s in ("train", "validation", "test") if _is_count(task.examples.get(s))]
    return element("p", " · ".join(w for w in words if w), class_="about")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def costs(board: Board) -> Html | None:
    if not any(s.cost or s.pretraining for s in board.submissions):
        return None
    columns = [
        Column("Submission", first="ascending", kind="name"),
        Column("Parameters"),
        Column("of them tuned"),
        Column("Tuning FLOPs"),
        Column("Tuning tokens"),
        Column("Tuning time"),
        Column("Pre-training steps"),
        Column("Pre-training FLOPs"),
        Column("Pre-training tokens"),
        Column("Objective", first="ascending", kind="word"),
    ]
    rows = []
    for s in board.submissions:
        made = s.pretraining
        cells = [Cell(name_cell(s), s.name)]
        cells += [Cell(count(s.cost.get(k)), s.cost.get(k)) for k in ("parameters", "learning_parameters")]
        cells += [Cell(count(s.cost.get(k)), s.cost.get(k)) for k in ("flops", "tokens")]
        cells += [Cell(duration(s.cost.get("seconds")), s.cost.get("seconds"))]
        cells += [Cell(count(made.get(k)), made.get(k)) for k in ("steps", "flops", "tokens")]
        cells += [Cell(made.get("objective") or NONE, made.get("objective"))]
        rows.append((s.series.attributes, cells))
    return table("Cost of each submission", columns, rows)


def configs(board: Board) -> Html | None:
    """For each submission its difference from the winner, and all of it."""
    shown = [s for s in board.submissions if s.config or s.difference]
    if not shown:
        return None
    winner = board.submissions[0]
    parts = []
    for s in shown:
        keys = len(s.difference)
        if s is winner:
            words = "first in the standings: the others are held against it"
        else:
            words = f"{keys} field{'s' * (keys != 1)} unlike {winner.name}" if keys else f"the same as {winner.name}"
        body = []
        if s.difference:
            head = element("tr", *(element("th", w, scope="col") for w in ("Field", s.name, winner.name)))
            lines = [
                element("tr", element("th", key, scope="row"), element("td", this), element("td", that))
                for key, this, that in s.difference
            ]
            body.append(
                element(
                    "div",
                    element("table", element("thead", head), element("tbody", *lines), class_="difference"),
                    class_="scroll",
                )
            )
        if s.config:
            lines = [element("div", element("dt", k), element("dd", v)) for k, v in s.config.items()]
            whole = element("dl", *lines, class_="config")
            fields = f"All {len(s.config)} fields"
            body.append(element("details", element("summary", fields), whole) if s.difference else whole)
        head = element("summary", s.series.key(), element("span", words, class_="note"))
        parts.append(element("details", head, *body, class_="run"))
    return element("div", *parts)


def failures(board: Board) -> Html | None:
    if not board.failed:
        return None
    parts = []
    for failure in board.failed:
        words = " · ".join(str(failure[k]) for k in ("submission", "task", "cell") if failure.get(k))
        error = str(failure.get("error") or "no message").strip()
        last = error.splitlines()[-1] if error else ""
        head = element("summary", element("span", words, class_="cell"), element("span", last, class_="note"))
        parts.append(element("details", head, element("pre", error[-ERROR_CHARACTERS:]), class_="run"))
    note = "These runs ended with an error. Scores above are means over the cells that did not."
    return element("div", element("p", note, class_="note"), *parts)


def method(board: Board) -> Html:
    resamples = f"{board.resamples:,}" if _is_count(board.resamples) else "the"
    definitions = [
        (
            "Score",
            "The mean of the tasks' headline metrics, in points of 100. Only a submission with every seed of every "
            "task has one.",
        ),
        (
            "Interval",
            f"{board.percent} of {resamples} bootstrap resamples, over examples and seeds together: what would happen "
            "with other examples of the same kind and other seeds, not on another task. Where there is one seed it is "
            "over examples alone, and too narrow. Examples count as independent; those of one file, context or "
            "paradigm are not, so that intervals are somewhat narrow.",
        ),
        (
            "Lead, inside the noise",
            "The lead is the paired difference to the next submission, on the same resampled examples, with its "
            "interval and p-value. It is inside the noise where its interval holds 0.",
        ),
        (
            "Rank",
            "A submission shares the rank of those above it (1=) while it can be told neither from the next better one "
            "nor from the best of them.",
        ),
        (
            "± on a task",
            "Standard deviation over seeds of the selected learning rate; nothing where there is one seed. It is not "
            "the interval, which also counts that the examples are few.",
        ),
        (
            "Learning rate",
            "Selected on validation, by the mean of the headline metric over seeds; test labels are scored for "
            "every run and select nothing.",
        ),
        (
            "Parameters, FLOPs, tokens, time",
            "Of the model, and of all fine-tuning cells together, the rates not selected included; pre-training is "
            "counted by itself, in Cost. A dash where it is not known, as for predictions handed in.",
        ),
        ("Bold", "The highest mean of its column, whether or not it is inside the noise."),
        ("Metrics", "; ".join(f"{t.name}: {t.metric or NONE} on {t.split}" for t in board.tasks) or NONE),
    ]
    made = board.made
    versions = [f"{k} {made[k]}" for k in ("ptjax", "jax", "python") if made.get(k)]
    when = [str(made["date"])[:16].replace("T", " ")] if made.get("date") else []
    rows = [element("div", element("dt", term), element("dd", words)) for term, words in definitions]
    return element(
        "div",
        element("dl", *rows, class_="method"),
        element("footer", element("p", "Made by ", " · ".join(versions + when) or "ptjax")),
    )


def _range(submission: Submission) -> str:
    low, high = submission.score.low, submission.score.high
    return "" if low is None or high is None else f" [{points(low)}, {points(high)}]"


def _scores(board: dict) -> Any:
    """The board without what is drawn from thousands of points: the page offers it for saving."""
    left_out = {"curves", "grid", "curve", "config", "difference"}

    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: without(v) for k, v in value.items() if k not in left_out}
        return [without(v) for v in value] if isinstance(value, (list, tuple)) else value

    return without({**board, "failed": []}) if isinstance(board, dict) else {}
