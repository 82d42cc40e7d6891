"""What arms were given and what they cost, and the proof that they are paired in the rest."""

import re

from ptjax.report.comparison.contents import Arm, Contents
from ptjax.report.comparison.words import STEP, after_words, budget_words, proven_words
from ptjax.report.figures import NONE, count, duration, number, plain, whole
from ptjax.report.html import Html, element
from ptjax.report.series import Series
from ptjax.report.table import Cell, Column, table
from ptjax.report.values import mapping

SIGNS = {"equal": "✓", "declared": "≠", "allowed": "!", "shown": "·"}
MEANINGS = {
    "equal": "the same in all",
    "declared": "differs, as declared",
    "allowed": "differs, and is allowed to",
    "shown": "differs, and may",
}
OF_AMOUNT = "Of the amount that the comparison gives"
COLUMNS = {"tokens": "Tokens", "predicted_tokens": "Predictions", "flops": "FLOPs", "seconds": "Seconds"}


def pairing(made: Contents) -> Html | None:
    """A row a thing that runs share or do not."""
    if not made.proofs:
        return None
    columns = [
        Column("What", "ascending", kind="name"),
        Column("Status", "ascending", kind="word"),
        Column("In words", "ascending", kind="word"),
        Column("Values and arms", "ascending", kind="word"),
        Column("Checked", "ascending", kind="word"),
    ]
    series = {arm.name: arm.series for arm in made.arms}
    rows = []
    for item in made.proofs:
        sign = element("span", SIGNS.get(item.status, "?"), class_="sign", aria_hidden="true")
        status = element("span", sign, " ", status_words(item.status), class_=f"status {_kind(item.status)}")
        groups = [_group(arms, value, series, len(made.arms)) for arms, value in item.groups]
        cells = [Cell(element("span", item.what or NONE), item.what), Cell(status, item.status)]
        cells += [
            Cell(item.about or NONE, item.about, "prose"),
            Cell(groups or NONE, item.groups and item.groups[0][1]),
        ]
        cells.append(Cell(item.checked or NONE, item.checked, "prose"))
        rows.append(({}, cells))
    words = proven_words(made)
    return element("div", element("p", words, class_="note"), table("What is paired", columns, rows, "proof"))


def status_words(status: str) -> str:
    return MEANINGS.get(status, status or NONE)


def short(value: str) -> str:
    """A hash, as much of it as tells it from others."""
    return value[:12] if re.fullmatch("[0-9a-f]{13,}", value) else value


def _kind(status: str) -> str:
    return f"is-{status}" if status in SIGNS else ""


def _group(arms: list[str], value: str, series: dict[str, Series], all_arms: int) -> Html:
    hashed = element("code", short(value) or NONE, title=value or None)
    if len(arms) == all_arms > 1:
        return element("span", hashed, f" all {all_arms} arms", class_="group")
    known = [series.get(name, Series(None, name)).key() for name in arms]
    return element("span", hashed, " ", element("span", *known, class_="keys"), class_="group")


def budget(made: Contents) -> Html | None:
    """Two tables: what a run of each arm spends, the matched column marked, and what a step of it does."""
    if not any(arm.budget for arm in made.arms):
        return None
    note = element("p", f"{budget_words(made)} The matched column is marked by = and a band.", class_="note")
    steps = element("p", STEP, class_="note apart")
    return element("div", note, _runs(made), steps, _steps(made))


def _runs(made: Contents) -> Html:
    shares = any(arm.share not in (None, 1.0) for arm in made.arms)
    columns = [Column("A run", "ascending", kind="name"), *([Column("Multiple", about=OF_AMOUNT)] if shares else [])]
    columns += [Column("Steps")]
    columns += [
        Column(f"= {name}" if key == made.match else name, about="Matched" if key == made.match else None)
        for key, name in COLUMNS.items()
    ]
    rows = []
    for arm in made.arms:
        cells = [Cell(arm.series.who(after_words(arm) or None), arm.name)]
        cells += [Cell(multiple(arm), arm.share)] if shares else []
        cells.append(Cell(whole(arm.budget.get("steps")), arm.budget.get("steps")))
        for key, value in spent(arm).items():
            cells.append(Cell(value, arm.budget.get(key), "is-matched" if key == made.match else None))
        cells.append(Cell(count(arm.budget.get("parameters")), arm.budget.get("parameters")))
        rows.append((arm.series.attributes, cells))
    return table("What a run of each arm spends", [*columns, Column("Parameters")], rows, "fit")


def spent(arm: Arm) -> dict[str, str]:
    """What a run of it spends, by what could be matched."""
    return {
        key: duration(arm.budget.get(key)) if key == "seconds" else count(arm.budget.get(key), 3) for key in COLUMNS
    }


def _steps(made: Contents) -> Html:
    columns = [
        Column("A step", "ascending", kind="name"),
        Column("Objective", "ascending", kind="word"),
        Column("Tokens"),
        Column("Predictions", about="That the objective asks for, of all terms of the loss"),
        Column("Per 100 tokens", about="Predictions a hundred tokens that are read"),
        Column("By term", "ascending", kind="word", about="Predictions by term of the loss"),
        Column(
            "FLOPs", about="By formula: matrix products of the model, forward and backward, without the optimizer's"
        ),
        Column("Compiled", about="FLOPs as the compiler counts them, the optimizer's among them"),
        Column("Seconds", about="Measured on this machine"),
    ]
    rows = []
    for arm in made.arms:
        step, of_hundred = arm.step, NONE if arm.predicted is None else f"{arm.predicted:.1f}"
        cells = [Cell(arm.series.who(), arm.name), Cell(arm.objective or NONE, arm.objective, "prose")]
        cells += [Cell(whole(step.get(key)), step.get(key)) for key in ("tokens", "predicted_tokens")]
        cells += [Cell(of_hundred, arm.predicted), Cell(terms(arm), terms(arm), "prose")]
        cells += [Cell(count(step.get(key), 3), step.get(key)) for key in ("flops", "flops_compiled")]
        rows.append((arm.series.attributes, [*cells, Cell(plain(step.get("seconds")), step.get("seconds"))]))
    return table("What a step of each arm spends", columns, rows, "fit")


def multiple(arm: Arm) -> str:
    return NONE if arm.share is None else f"×\u00a0{arm.share:g}"


def terms(arm: Arm) -> str:
    """Predictions a step by term of the loss."""
    found = mapping(arm.budget.get("terms"))
    return ", ".join(f"{name}\u00a0{whole(n)}" for name, n in found.items()) or NONE


COSTS = ("pretraining_flops", "tuning_flops", "pretraining_seconds", "tuning_seconds")


def costs(made: Contents) -> Html | None:
    """A row an arm: all its runs, those of rates that were not selected too."""
    if not any(arm.cost for arm in made.arms):
        return None
    columns = [
        Column("Arm", "ascending", kind="name"),
        Column("Runs"),
        Column("Pre-training FLOPs"),
        Column("Fine-tuning FLOPs"),
        Column("Pre-training time"),
        Column("Fine-tuning time"),
        Column("Time"),
    ]
    rows = []
    for arm in made.arms:
        cells = [Cell(arm.series.who(), arm.name), Cell(count(arm.cost.get("runs")), arm.cost.get("runs"))]
        cells += [Cell(count(arm.cost.get(key)), arm.cost.get(key)) for key in COSTS[:2]]
        cells += [Cell(duration(arm.cost.get(key)), arm.cost.get(key)) for key in COSTS[2:]]
        cells.append(Cell(duration(seconds(arm)), seconds(arm)))
        rows.append((arm.series.attributes, cells))
    return element(
        "div", element("p", cost_words(made), class_="note"), table("Cost of each arm", columns, rows, "fit")
    )


def seconds(arm: Arm) -> float | None:
    """Of all its runs and cells."""
    known = [n for n in (number(arm.cost.get(key)) for key in COSTS[2:]) if n is not None]
    return sum(known) if known else None


def cost_words(made: Contents) -> str:
    def total(key: str) -> float:
        return sum(number(arm.cost.get(key)) or 0.0 for arm in made.arms)

    time = sum(seconds(arm) or 0.0 for arm in made.arms)
    flops = total("pretraining_flops") + total("tuning_flops")
    words = f"In all {count(total('runs'))} pre-trainings, {duration(time)} and {count(flops)} FLOPs"
    return f"{words}, those of rates that were not selected included."
