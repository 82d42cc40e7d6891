"""comparison.json as Markdown, for a folder of notes: tables of GitHub's flavour, no HTML, no links."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from ptjax.report.comparison.contents import UNITS, Contents
from ptjax.report.comparison.curves import edge_words
from ptjax.report.comparison.spent import (
    COLUMNS,
    COSTS,
    SIGNS,
    cost_words,
    multiple,
    proven_words,
    seconds,
    short,
    spent,
    status_words,
    terms,
)
from ptjax.report.comparison.words import (
    Name,
    after_words,
    budget_words,
    interval,
    metric_words,
    verdict,
)
from ptjax.report.figures import NONE, count, duration, plain, points, probability, rate, whole
from ptjax.report.html import UNSPEAKABLE
from ptjax.report.values import Interval

ERROR_CHARACTERS = 200
# What would be markup where it stands: emphasis, code, strikes, cells, tags, entities, links. And what begins a block.
MARKUP = re.compile(r"[\\`*~|]|(?<![^\W_])_|_(?![^\W_])|<(?=[A-Za-z/!?])|&(?=#?\w+;)|\](?=[(\[:])")
OPENING = re.compile(r"^(\d*)([.)#+>=-])(?=[\s#>=-]|$)")
ADDRESS = re.compile(r"://|www\.|@", re.IGNORECASE)


def comparison_markdown(comparison: dict) -> str:
    """What the page says, without its charts and whole configs.

    Args:
      comparison: comparison.json. Whatever is missing in it, or not a finite number, is shown as a dash.
    """
    made = Contents.read(comparison)
    parts = [f"# {prose(f'Comparison: {made.name}')}", prose(made.question), _sentence(verdict(made))]
    for heading, body in (
        ("Arms", _arms(made)),
        ("Scores", _scores(made)),
        ("Differences", _differences(made)),
        ("Pairing", _pairing(made)),
        ("Budget", _budget(made)),
        ("Learning rates", _rates(made)),
        ("Scaling", _scaling(made)),
        ("Config differences", _configs(made)),
        ("Cost", _cost(made)),
        ("Failed", _failed(made)),
    ):
        if body:
            parts += [f"## {heading}", *body]
    parts.append(_foot(made))
    text = "\n\n".join(part for part in parts if part) + "\n"
    return text.replace("\u00a0", " ")  # which editors do not show


def prose(value: Any) -> str:
    """Text that stands as it is written: no sign of it is markup, and nothing that looks like an address is a link."""
    value = _line(value)
    if ADDRESS.search(value):
        return code(value)
    return OPENING.sub(lambda found: f"{found[1]}\\{found[2]}", _inline(value))


def code(value: Any) -> str:
    """In the type of code, whatever is in it. For cells of tables too."""
    value = _line(value)
    if not value:
        return NONE
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", value)), default=0))
    pad = " " if value.startswith("`") or value.endswith("`") else ""
    return f"{fence}{pad}{value}{pad}{fence}".replace("|", "\\|")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """Cells are Markdown already; the first `words` columns are of words, the others of numbers, to the right."""
    rule = ["---" if k < words else "--:" for k in range(len(columns))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (columns, rule, *rows))


def _line(value: Any) -> str:
    return " ".join(UNSPEAKABLE.sub("\ufffd", str(value)).split())


def _inline(value: str) -> str:
    return MARKUP.sub(lambda found: f"\\{found[0]}", value)


def _sentence(parts: Sequence[str]) -> str:
    return "".join(f"**{prose(part)}**" if isinstance(part, Name) else _inline(part) for part in parts).strip()


def _arms(made: Contents) -> list[str]:
    rows = []
    for arm in made.arms:
        changes = ", ".join(map(code, arm.changes)) or "the base itself"
        words = "; ".join(prose(w) for w in (arm.about, after_words(arm)) if w)
        rows.append([prose(arm.name), prose(arm.objective), changes, words])
    return [table(("arm", "objective", "changes", "about"), rows, 4)] if rows else []


def _scores(made: Contents) -> list[str]:
    metrics = sorted({arm.metric for arm in made.arms if arm.pretraining.mean is not None})
    if not metrics and not made.tasks:
        return []
    columns = ["arm", *(["score"] if made.tasks else []), *(prose(task.name) for task in made.tasks)]
    rows = []
    for arm in made.arms:
        cells = [prose(arm.name), *([_measured(arm.score)] if made.tasks else [])]
        means = [arm.results[task.name].mean if task.name in arm.results else None for task in made.tasks]
        cells += [points(mean) for mean in means]
        cells += [_measured(arm.pretraining, plain) if arm.metric == metric else NONE for metric in metrics]
        rows.append(cells)
    words = f"Points of 100, {made.percent} intervals; means over seeds." if made.tasks else ""
    if metrics:
        words += " Validation is on each arm's own question; values of unlike questions do not compare."
    return [words.strip(), table([*columns, *(prose(metric_words(m)) for m in metrics)], rows)]


def _measured(found: Interval, said=points) -> str:
    return f"{said(found.mean)}{interval(found, said)}" if found.mean is not None else NONE


def _differences(made: Contents) -> list[str]:
    if not made.differences:
        return []
    names = [task.name for task in made.tasks if any(task.name in d.tasks for d in made.differences)]
    rows, by_task = [], []
    for d in made.differences:
        pair = f"{prose(d.a.name)} − {prose(d.b.name)}"
        told = NONE if d.mean is None else "no" if d.tie else "yes"
        paired = {True: "paired", False: "unpaired", None: NONE}[d.paired]
        cells = [pair, f"{points(d.mean, True)}{interval(d)}", _p(d.p), _p(d.holm), told, paired]
        rows.append(cells)
        squares = []
        for name in names:
            t = d.tasks.get(name)
            said = NONE if t is None else points(t.mean, True)
            squares.append(f"**{said}**" if t is not None and t.told_apart else said)
        by_task.append([pair, *squares])
    made_of = [table(("pair", "difference", "p", "p (Holm)", "told apart", "paired"), rows)]
    if names:
        made_of += [
            "By task, bold where the interval lacks 0, not adjusted for how many there are:",
            table(("pair", *map(prose, names)), by_task),
        ]
    return made_of


def _p(p: float | None) -> str:
    return probability(p).removeprefix("p\u00a0=\u00a0").removeprefix("p\u00a0") or NONE


def _pairing(made: Contents) -> list[str]:
    rows = []
    for item in made.proofs:
        groups = []
        for arms, value in item.groups:
            who = f"all {len(arms)}" if len(arms) == len(made.arms) > 1 else ", ".join(map(prose, arms))
            groups.append(f"{code(short(value))} {who}")
        status = f"{SIGNS.get(item.status, '?')} {prose(status_words(item.status))}"
        rows.append([prose(item.what), status, prose(item.about), "; ".join(groups), prose(item.checked)])
    return (
        [proven_words(made), table(("what", "status", "in words", "values and arms", "checked"), rows, 5)]
        if rows
        else []
    )


def _budget(made: Contents) -> list[str]:
    if not any(arm.budget for arm in made.arms):
        return []
    shares = any(arm.share not in (None, 1.0) for arm in made.arms)
    words = {key: UNITS[key] for key in COLUMNS}
    totals = [f"{word} (matched)" if key == made.match else word for key, word in words.items()]
    runs, steps = [], []
    for arm in made.arms:
        shown = {k: f"**{v}**" if k == made.match else v for k, v in spent(arm).items()}
        cells = [prose(arm.name), *([multiple(arm)] if shares else []), whole(arm.budget.get("steps"))]
        runs.append([*cells, *shown.values(), count(arm.budget.get("parameters"))])
        step = arm.step
        cells = [prose(arm.name), prose(arm.objective) or NONE, prose(terms(arm)), whole(step.get("tokens"))]
        cells.append(NONE if arm.predicted is None else f"{arm.predicted:.1f}")
        cells += [count(step.get("flops"), 3), count(step.get("flops_compiled"), 3), plain(step.get("seconds"))]
        steps.append(cells)
    return [
        prose(budget_words(made)),
        table(("a run", *(["multiple"] if shares else []), "steps", *totals, "parameters"), runs),
        table(("a step", "objective", "predicts", "tokens", "of 100", "FLOPs", "compiled", "seconds"), steps, 3),
    ]


def _rates(made: Contents) -> list[str]:
    rates = sorted({tried.rate for arm in made.arms for tried in arm.rates.grid})
    if not rates:
        return []
    rows = []
    for arm in made.arms:
        losses, scores = arm.rates.means("loss"), arm.rates.means("score")
        cells = [prose(arm.name), rate(arm.rates.peak)]
        for k in rates:
            said = [plain(sum(losses[k]) / len(losses[k]))] if k in losses else []
            said += [points(sum(scores[k]) / len(scores[k]))] if k in scores else []
            both = " / ".join(said) or NONE
            cells.append(f"**{both}**" if k == arm.rates.selected else both)
        rows.append(cells)
    by = "its own validation loss" if made.select == "loss" else "the suite's score on validation"
    words = f"Validation loss / score, by multiples of each arm's peak rate; bold is selected, by {by}."
    made_of = [words, table(("arm", "selected", *(f"×{k:g}" for k in rates)), rows)]
    return [*made_of, *(f"⚠ {prose(w)}" for w in edge_words(made))]


def _scaling(made: Contents) -> list[str]:
    rows = []
    for fit in made.fits:
        said, unit = (points, " points") if fit.y == "score" else (plain, "")
        slope = f"{said(fit.slope.mean, True)}{unit}{interval(fit.slope, said)}"
        r2 = NONE if fit.r2 is None else f"{fit.r2:.2f}"
        rows.append([prose(fit.curve), prose(fit.form), slope, _p(fit.p), r2, str(len(fit.points))])
    words = "Of a score, what ten times the FLOPs add; of a loss, the exponent. So few sizes fit many laws."
    return [words, table(("curve", "form", "slope", "p", "R²", "runs"), rows, 2)] if rows else []


def _configs(made: Contents) -> list[str]:
    rows = [
        [prose(arm.name) if k == 0 else "", code(key), code(this), code(that)]
        for arm in made.arms
        for k, (key, this, that) in enumerate(arm.difference)
    ]
    return [table(("arm", "field", "its", "base"), rows, 4)] if rows else []


def _cost(made: Contents) -> list[str]:
    if not any(arm.cost for arm in made.arms):
        return []
    rows = []
    for arm in made.arms:
        cells = [prose(arm.name), count(arm.cost.get("runs")), *(count(arm.cost.get(k)) for k in COSTS[:2])]
        rows.append([*cells, *(duration(arm.cost.get(k)) for k in COSTS[2:]), duration(seconds(arm))])
    columns = ("arm", "runs", "pre-training FLOPs", "fine-tuning FLOPs", "pre-training", "fine-tuning", "in all")
    return [cost_words(made), table(columns, rows)]


def _failed(made: Contents) -> list[str]:
    lines = []
    for failure in made.failed:
        where = " · ".join(prose(failure[k]) for k in ("arm", "run", "task") if failure.get(k))
        error = str(failure.get("error") or "no message").strip().splitlines() or ["no message"]
        lines.append(f"- {where}: {code(error[-1][-ERROR_CHARACTERS:])}")
    return ["\n".join(lines)] if lines else []


def _foot(made: Contents) -> str:
    words = (
        f"Intervals are {made.percent}, over pre-training seeds (Student's t, wide for few) and examples. Arms that "
        "cannot be told apart need not be equal. A comparison of small models says little about large ones."
    )
    versions = [f"{k} {made.made[k]}" for k in ("ptjax", "jax", "python") if made.made.get(k)]
    versions += [str(made.made["date"])[:10]] if made.made.get("date") else []
    return f"{words}{' Made by ' * bool(versions)}{prose(', '.join(versions))}{'.' * bool(versions)}"
