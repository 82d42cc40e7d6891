"""leaderboard.json as a page."""

from typing import Any

from ptjax.report.board import Board, Submission
from ptjax.report.curves import learning_rates, pretraining, training
from ptjax.report.figures import NONE, count, duration, points
from ptjax.report.folded import config, errors
from ptjax.report.html import Html, definitions, element, page
from ptjax.report.panels import task_panels
from ptjax.report.standings import lead_words, standings
from ptjax.report.table import Cell, Column, table
from ptjax.report.values import is_count


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
    return page(f"Leaderboard: {read.suite}", summary(read), sections, data=_scores(board))


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
    """A panel a task, the best first."""
    return task_panels([(t, [(s.series, r) for s, r in board.results(t)]) for t in board.tasks], board.percent)


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
        cells = [Cell(s.series.who(), s.name)]
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
        parts.append(config(s.series, words, s.difference, winner.name, s.config))
    return element("div", *parts)


def failures(board: Board) -> Html | None:
    note = "These runs ended with an error. Scores above are means over the cells that did not."
    places = [" · ".join(str(f[k]) for k in ("submission", "task", "cell") if f.get(k)) for f in board.failed]
    return errors(note, [(place, f.get("error")) for place, f in zip(places, board.failed)])


def method(board: Board) -> Html:
    resamples = f"{board.resamples:,}" if is_count(board.resamples) else "the"
    said = [
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
    return definitions(said, board.made)


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
