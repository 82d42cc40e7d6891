"""The table that ranks submissions."""

from ptjax.report.board import Board, Lead, Submission
from ptjax.report.figures import NONE, count, duration, points, probability
from ptjax.report.html import Html, element
from ptjax.report.scale import Scale
from ptjax.report.table import Cell, Column, barred, table

NOISE = "inside the noise"


def standings(board: Board) -> Html:
    """Rank, name, score, lead over the next, a column a task, cost."""
    if not board.submissions:
        return element("p", "Nothing has been submitted.", class_="note")
    columns = [
        Column("#", "ascending", about="Rank; = where several share it", sorted=True),
        Column("Submission", "ascending", kind="name"),
        Column("Score", about="Mean of the tasks' headline metrics, points of 100"),
        Column("Lead", about="Ahead of the next submission by this much"),
    ]
    columns += [Column(task.name, about=f"{task.metric}: mean, and spread over seeds") for task in board.tasks]
    columns += [Column(name, "ascending") for name in ("Params", "FLOPs", "Tokens", "Time")]
    shown = [v for s in board.submissions for v in (s.score.mean, s.score.low, s.score.high) if v is not None]
    scale = Scale.around([100 * v for v in shown], least=5.0, limit=100.0)
    best = {t.name: max((r.mean for _, r in board.results(t)), default=None) for t in board.tasks}
    shared = [s.rank for s in board.submissions if s.complete]
    rows = []
    for place, s in enumerate(board.submissions):
        ranked = s.complete and s.rank is not None
        rank = f"{s.rank}{'=' if shared.count(s.rank) > 1 else ''}" if ranked else NONE
        cells = [Cell(rank, place + 1), Cell(s.series.who(_incomplete(s)), s.name)]
        cells += [barred(s.series, s.score, scale, board.percent), _lead(s.lead)]
        for task in board.tasks:
            r = s.results.get(task.name)
            if r is None or r.mean is None:
                cells.append(Cell(element("span", NONE, class_="mean"), None, "task missing"))
                continue
            spread = None if r.spread is None else element("span", f"±\u00a0{points(r.spread)}", class_="sub")
            lacking = r.lacking and element("span", r.lacking, class_="sub")
            figures = element("span", points(r.mean), class_="mean"), spread, lacking
            cells.append(Cell(figures, r.mean, "task best" if r.mean == best[task.name] else "task"))
        cells += [Cell(count(s.cost.get(key)), s.cost.get(key)) for key in ("parameters", "flops", "tokens")]
        cells.append(Cell(duration(s.cost.get("seconds")), s.cost.get("seconds")))
        kind = s.series.color if s.complete else f"{s.series.color} incomplete"
        rows.append((s.series.attributes | {"class_": kind}, cells))
    note = f"Points of 100. Score and lead with {board.percent} intervals; tasks with their spread over seeds."
    return element("div", element("p", note, class_="note"), table("Standings", columns, rows, "standings"))


def lead_words(lead: Lead) -> str:
    """The lead in words, as a sentence goes on."""
    d = lead.difference
    interval = "" if d.low is None or d.high is None else f" [{points(d.low)}, {points(d.high)}]"
    words = f"{points(d.mean)}{interval} ahead of {lead.name}"
    return f"{words}: {NOISE}" if lead.tie else words


def _incomplete(submission: Submission) -> str | None:
    if submission.complete:
        return None
    lacks = [f"no {task}" for task in submission.missing]
    lacks += [f"{r.lacking} of {task}" for task, r in submission.results.items() if r.lacking]
    return f"incomplete: {', '.join(lacks)}" if lacks else "incomplete"


def _lead(lead: Lead | None) -> Cell:
    if lead is None or lead.difference.mean is None:
        return Cell(NONE, None, "lead missing")
    words = f"{lead_words(lead)}{', ' if lead.p is not None else ''}{probability(lead.p)}"
    parts = element("span", points(lead.difference.mean, True), class_="mean")
    below = element("span", NOISE if lead.tie else probability(lead.p), class_="sub tie" if lead.tie else "sub")
    return Cell(element("span", parts, below, title=words), lead.difference.mean, "lead")
