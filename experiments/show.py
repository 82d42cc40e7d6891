"""What mains print beyond a line: a summary table, filled masks, sampled text."""

from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from ptjax.data.pipeline import Data, Pipeline, batch_at
from ptjax.generate import Fill, Predictor, Sampling
from ptjax.summary import Summary

if TYPE_CHECKING:
    from ptjax.compare.study import Study

console = Console(highlight=False, soft_wrap=True)


def summary(s: Summary) -> None:
    table = Table(title="parameters", title_justify="left", box=None, show_header=False, pad_edge=False)
    for name, number in s.parameters.items():
        table.add_row(name, f"{number:,}")
    total = sum(s.parameters.values())
    table.add_row("in all", f"{total:,}")
    if s.active < total:
        table.add_row("of which a token meets", f"{s.active:,}")
    console.print(table)
    compiled = f"; the compiler counts {s.compiled_flops / 1e9:.1f} (a scanned stack once)" if s.compiled_flops else ""
    console.print(f"FLOPs a step  {s.flops / 1e9:.1f} G by the formula{compiled}")
    console.print("memory a device  " + ", ".join(f"{name} {size / 2**20:.1f} MiB" for name, size in s.memory.items()))
    console.print(f"mesh  {' x '.join(f'{axis}={size}' for axis, size in s.mesh.items())} on {s.devices}")


def facts(**rows: str) -> None:
    """Name and value a line; what is empty is not shown."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in rows.items():
        if value:
            table.add_row(name.replace("_", " "), value)
    console.print(table)


def against_trivial(scores: dict[str, float], score: str, name: str, baseline: float) -> None:
    gap = baseline - scores[score]
    console.print(
        f"\nvalidation {score} {scores[score]:.3f} nats a token, {abs(gap):.3f} {'below' if gap > 0 else 'above'} the "
        f"{name}, {baseline:.3f}, which a model reaches that learns nothing from context"
    )


def fills(text: str, found: list[Fill]) -> None:
    console.print(Text(text, style="bold"))
    for fill in found:
        console.print(_guesses(fill))


def _guesses(fill: Fill) -> Text:
    shares = [f"{p:.0%}" if p >= 0.01 else f"{p:.1%}" for p in fill.probabilities]
    return Text("    " + "   ".join(f"{piece!r} {share}" for piece, share in zip(fill.pieces, shares)))


def examples(predictor: Predictor, data: Data, count: int = 5) -> None:
    """A few questions from held-out text, with what the model answers."""
    pipeline = Pipeline(data, "validation", shuffle=False)
    tokens = batch_at(pipeline, 0)["tokens"]
    rows = tokens[np.linspace(0, min(len(tokens), pipeline.rows) - 1, count).astype(int)]
    if "fill" in predictor.experiment.objective.abilities():
        console.print("\n[bold]masks in held-out text, and the model's five best guesses[/bold]")
        _filled_masks(predictor, rows)
    elif "sample" in predictor.experiment.objective.abilities():
        console.print("\n[bold]held-out text, and how the model goes on[/bold]")
        prompts = [row[row != pipeline.vocab.pad_id][: max(min(48, data.length // 2), 1)] for row in rows[:2]]
        room = predictor.trained_length - len(prompts[0]) - max(len(predictor.start), 1)
        sampling = Sampling(tokens=max(min(48, room), 1), temperature=0.8, top_p=0.95)
        for start, end in zip(prompts, predictor.sample(prompts, sampling)):
            tokenizer = predictor.tokenizer
            console.print(
                Text(tokenizer.decode(start)).append(tokenizer.decode_inside(end), style="green"), "\n[dim]---[/dim]"
            )


def _filled_masks(predictor: Predictor, rows: np.ndarray) -> None:
    vocab, decode = predictor.tokenizer.vocab, predictor.tokenizer.decode_inside
    for row in rows:
        # The first word of some length past the middle: there is text on both sides, and something to guess.
        wordlike = [i for i in range(len(row) // 2, len(row) - 4) if decode([row[i]]).strip().isalpha()]
        wordlike = [i for i in wordlike if len(decode([row[i]]).strip()) > 2] or wordlike
        if not wordlike:
            continue
        at = wordlike[0]
        masked = row.copy()
        masked[at] = vocab.mask_id
        found = predictor.fill([masked])[0]
        before, after = decode(row[:at]).split("\n")[-1], decode(row[at + 1 :]).split("\n")[0]
        piece = decode([row[at]])
        console.print(Text(before[-60:]).append(f"[{piece}]", style="bold green").append(after[:40]))
        console.print(_guesses(found[0]))


def leaderboard(board: dict) -> None:
    """The ranking of a leaderboard.json, in points of 100."""
    suite, submissions = board["suite"], board["submissions"]
    tasks = [task["name"] for task in suite["tasks"]]
    splits = " and ".join(sorted({task["split"] for task in suite["tasks"]}))
    table = Table(box=None, pad_edge=False, title=f"{suite['name']}, {splits} split", title_justify="left")
    known = any(s["cost"] for s in submissions)  # of predictions that were handed in nobody knows it
    heads = ["#", "submission", "score", f"{board['confidence']:.0%} interval", *tasks]
    for head in heads + ["parameters", "FLOPs", "time"] * known:
        table.add_column(head, justify="left" if head == "submission" else "right")
    ranks = [s["rank"] for s in submissions if s["complete"]]
    for s in submissions:
        row = [f"{s['rank']}{'=' if ranks.count(s['rank']) > 1 else ''}" if s["complete"] else "-", s["name"]]
        if s["complete"]:
            row += [_points(s["score"]["mean"]), f"{_points(s['score']['low'])} to {_points(s['score']['high'])}"]
        else:
            row += ["-", "incomplete"]
        table.add_row(*row, *(_task(s["tasks"].get(task)) for task in tasks), *_cost(s["cost"] or {})[: 3 * known])
    _wide(table)
    if len(ranks) > len(set(ranks)):
        console.print("= these share a rank: what separates them is inside the noise", style="dim")
    for failure in board["failed"]:
        where = " ".join(failure[key] for key in ("submission", "task", "cell") if failure[key])
        console.print(f"failed: {where}: {failure['error'].splitlines()[-1]}", markup=False)


def budget(study: "Study") -> None:
    """What each arm of a comparison spends, and how much there is to run."""
    c, found = study.comparison, study.budget
    console.print(f"{c.name}: equal {c.match.replace('_', ' ')}, {found.amount:.4g} for each arm", markup=False)
    table = Table(box=None, pad_edge=False)
    for head in ("arm", "steps", "tokens", "predicted tokens", "FLOPs", "seconds", "goes on from"):
        table.add_column(head, justify="left" if head in ("arm", "goes on from") else "right")
    for arm in c.arms:
        given = found.arms[arm.name]
        total = given.total
        figures = [f"{v:.4g}" for v in (total.tokens, total.predicted_tokens, total.flops)]
        seconds = "not measured" if total.seconds is None else f"{total.seconds:.0f}"
        before = f"{arm.after}, step {given.start}" if arm.after else ""
        table.add_row(arm.name, f"{given.steps}", *figures, seconds, before)
    console.print(table)
    runs = sum(len(c.seeds_of(arm)) + len(c.rates) - 1 for arm in c.arms)
    tasks = len(c.suite.tasks) if c.suite else 0
    tuned = runs if c.select == "score" else sum(len(c.seeds_of(arm)) for arm in c.arms)
    console.print(f"{runs} pre-trainings, {tuned} of them fine-tuned on {tasks} task(s)")


def comparison(contents: dict) -> None:
    """Scores and differences of a comparison.json, in points of 100."""
    tasks = [task["name"] for task in contents["suite"]["tasks"]] if contents["suite"] else []
    table = Table(box=None, pad_edge=False, title=contents["name"], title_justify="left")
    heads = ["arm", "steps", "score", f"{contents['confidence']:.0%} interval", *tasks, "validation", ""]
    for head in heads:
        table.add_column(head, justify="left" if head in ("arm", "") else "right")
    for arm in contents["arms"]:
        score = [_points(arm["score"]["mean"]), _range(arm["score"])] if arm["score"] else ["-", "-"]
        scores = [_points(arm["tasks"][task]["mean"]) if task in arm["tasks"] else "-" for task in tasks]
        made = arm["pretraining"]
        shown = [f"{made['mean']:.4f}", made["metric"].replace("_", " ")] if made else ["-", ""]
        table.add_row(arm["name"], str(arm["budget"]["steps"]), *score, *scores, *shown)
    _wide(table)
    for pair in contents["differences"]:
        noise = "inside the noise" if pair["tie"] else f"p = {pair['p']:.3g}"
        console.print(
            f"{pair['a']} - {pair['b']}  {_points(pair['mean'])} points ({_range(pair)}), {noise}", markup=False
        )
    if not contents["complete"]:
        left = contents["left"]
        console.print(f"to come: {left['runs']} pre-training(s), {left['cells']} fine-tuning(s)", style="dim")
    for failure in contents["failed"]:
        where = " ".join(failure[key] for key in ("arm", "run", "task") if failure[key])
        console.print(f"failed: {where}: {failure['error'].splitlines()[-1]}", markup=False)


def _wide(table: Table) -> None:
    """As wide as it is: cut cells tell nothing."""
    wide = Measurement.get(console, console.options.update(width=1000), table).maximum
    Console(highlight=False, width=max(wide, console.width)).print(table, markup=False)


def _range(interval: dict) -> str:
    bounds = [interval["low"], interval["high"]]
    return "no interval" if None in bounds else " to ".join(map(_points, bounds))


def _task(result: dict | None) -> str:
    if result is None:
        return "-"
    spread = f" ± {_points(result['spread'])}" if result["spread"] is not None else ""
    done, asked = result["runs"]
    return _points(result["mean"]) + spread + (f" ({done} of {asked} seeds)" if done < asked else "")


def _cost(cost: dict) -> tuple[str, str, str]:
    parameters, flops, seconds = (cost.get(key) for key in ("parameters", "flops", "seconds"))
    return (
        "-" if parameters is None else f"{parameters / 1e6:.3g} M",
        "-" if flops is None else f"{flops:.2g}",
        "-" if seconds is None else f"{seconds:.0f} s",
    )


def _points(share: float) -> str:
    return f"{100 * share:.1f}"
