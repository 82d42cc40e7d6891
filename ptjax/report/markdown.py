"""comparison.json as Markdown, for a folder of notes: tables of GitHub's flavour, no HTML, no links."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from ptjax.report.comparison.contents import SCORE, UNITS, Contents, Difference
from ptjax.report.comparison.spent import (
    COLUMNS,
    COSTS,
    SIGNS,
    cost_words,
    multiple,
    seconds,
    short,
    spent,
    status_words,
    terms,
)
from ptjax.report.comparison.verdict import Name, verdict
from ptjax.report.comparison.words import (
    PAIRED,
    STEP,
    after_words,
    budget_words,
    definitions,
    differences_words,
    edge_words,
    fitted,
    interval,
    metric_words,
    proven_words,
    rates_words,
    scaling_words,
    scores_words,
    tried,
    validation_words,
)
from ptjax.report.figures import NONE, count, duration, plain, points, probability, rate, thousandths, whole
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
        ("How to read this", _definitions(made)),
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
    if not made.asked and not made.tasks:
        return []
    columns = ["arm", *(["score"] if made.tasks else []), *(prose(task.name) for task in made.tasks)]
    columns += [prose(f"{metric_words(one.metric)}, {one.question}") for one in made.asked]
    rows = []
    for arm in made.arms:
        lacking = f", {arm.lacking}" if arm.lacking else ""
        cells = [f"{prose(arm.name)}{lacking}", *([_measured(arm.score)] if made.tasks else [])]
        means = [arm.results[task.name].mean if task.name in arm.results else None for task in made.tasks]
        cells += [points(mean) for mean in means]
        cells += [_measured(arm.pretraining, plain) if arm in one.arms else NONE for one in made.asked]
        rows.append(cells)
    return [prose(scores_words(made)), table(columns, rows)]


def _measured(found: Interval, said=points) -> str:
    return f"{said(found.mean)}{interval(found, said)}" if found.mean is not None else NONE


def _differences(made: Contents) -> list[str]:
    parts = []
    if made.differences:
        parts += [prose(differences_words(made)), _pairs(made.differences), *_by_task(made)]
    for question, metric in dict.fromkeys((d.question, d.metric) for d in made.pretraining):
        pairs = [d for d in made.pretraining if (d.question, d.metric) == (question, metric)]
        parts += [prose(validation_words(pairs[0], made.percent)), _pairs(pairs)]
    return parts


def _pairs(pairs: Sequence[Difference]) -> str:
    rows = []
    for d in pairs:
        said = points if d.metric == SCORE else thousandths
        far = f"{said(d.mean, True)}{interval(d, said)}"
        rows.append([_pair(d), far, _p(d.p), _p(d.holm), d.told, PAIRED[d.paired]])
    return table(("pair", "difference", "p", "p (Holm)", "told apart", "by seed"), rows)


def _pair(d: Difference) -> str:
    return f"{prose(d.a.name)} − {prose(d.b.name)}"


def _by_task(made: Contents) -> list[str]:
    names = [task.name for task in made.tasks if any(task.name in d.tasks for d in made.differences)]
    rows = []
    for d in made.differences:
        squares = []
        for name in names:
            t = d.tasks.get(name)
            said = NONE if t is None else points(t.mean, True)
            squares.append(f"**{said}**" if t is not None and t.told_apart else said)
        rows.append([_pair(d), *squares])
    words = "By task, bold where the interval lacks 0, not adjusted for how many there are:"
    return [words, table(("pair", *map(prose, names)), rows)] if names else []


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
        prose(STEP),
        table(("a step", "objective", "predictions", "tokens", "per 100", "FLOPs", "compiled", "seconds"), steps, 3),
    ]


def _rates(made: Contents) -> list[str]:
    words = rates_words(made)
    if not tried(made):
        return [prose(words)] if words else []
    rates = sorted({run.rate for arm in made.arms for run in arm.rates.grid})
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
    words = f"{words} Loss / score by multiples; bold is selected."
    made_of = [prose(words), table(("arm", "selected", *(f"×{k:g}" for k in rates)), rows)]
    return [*made_of, *(f"⚠ {prose(w)}" for w in edge_words(made))]


def _scaling(made: Contents) -> list[str]:
    rows = []
    for fit in made.fits:
        said, unit = (points, " points") if fit.y == "score" else (plain, "")
        slope = f"{said(fit.slope.mean, True)}{unit}{interval(fit.slope, said)}"
        r2 = NONE if fit.r2 is None else f"{fit.r2:.2f}"
        rows.append(
            [
                prose(fit.curve),
                prose(fitted(made, fit)),
                prose(fit.form),
                slope,
                _p(fit.p),
                whole(fit.sizes),
                r2,
                str(len(fit.points)),
            ]
        )
    columns = ("curve", "of", "form", "slope", "p", "sizes", "R²", "runs")
    return [scaling_words(), table(columns, rows, 3)] if rows else []


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


def _definitions(made: Contents) -> list[str]:
    return ["\n".join(f"- **{prose(term)}**: {prose(words)}" for term, words in definitions(made))]


def _foot(made: Contents) -> str:
    versions = [f"{k} {made.made[k]}" for k in ("ptjax", "jax", "python") if made.made.get(k)]
    versions += [str(made.made["date"])[:10]] if made.made.get("date") else []
    return f"Made by {prose(', '.join(versions))}." if versions else ""
