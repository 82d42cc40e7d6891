"""Does every objective learn? One small body, one corpus and one recipe, so many minutes each, on one page.

    python -m benchmarks.objectives.run --text=../shared/data/books --out=runs/objectives --minutes=10

One run after another; the same command goes on where it was stopped, --only=mlm,rtd takes some, and --page draws what
there is. Writes into --out: curves.png, a panel an objective, its score over tokens and what a model without context
would score (losses of different objectives have no common axis), and one with bits a byte of the diffusion model's
bound, the causal model and the causal mode of the hybrid on the same validation text; table.md; table.json.

Length counts: with rows of 32 tokens masked objectives leave the plateau at token frequencies in this time.
"""

import dataclasses
import json
import sys
from pathlib import Path

import chz

from benchmarks.machine import machine
from benchmarks.objectives import cells
from ptjax.config import UserError, from_json
from ptjax.data.prepare import Corpus
from ptjax.logging import read_metrics, require
from ptjax.metrics.baseline import unigram_entropy
from ptjax.objectives import (
    MLM,
    PLM,
    RTD,
    CausalLM,
    Hybrid,
    MaskedDiffusion,
    Objective,
    Phase,
    Schedule,
    SpanCorruption,
)
from ptjax.train import Experiment, Run

CELLS = {
    "mlm": (MLM(), "GPT"),
    "causal": (CausalLM(), "GPT"),
    "hybrid": (Hybrid(), "GPT"),
    "rtd": (RTD(), "GPT"),
    "span": (SpanCorruption(), "T5"),
    "diffusion": (MaskedDiffusion(), "GPT"),
    # Alone it stays on the plateau at token frequencies for the whole budget: half of a row is hidden on average.
    "mlm-diffusion": (Schedule(phases=(Phase(objective=MLM()), Phase(objective=MaskedDiffusion(), share=2.0))), "GPT"),
    # Relative positions leave it at once.
    "diffusion-xlnet": (MaskedDiffusion(), "XLNet"),
    "plm": (PLM(), "XLNet"),
}


@dataclasses.dataclass(frozen=True)
class Result:
    """A trained cell, read back from its workdir. curves: (million tokens, score) of each kind of record."""

    name: str
    objective: str
    body: str
    score: str
    validation: float
    baseline: str
    baseline_value: float
    gap: float
    tokens: int
    steps: int
    minutes: float
    tokens_per_second: float
    curves: dict[str, list[tuple[float, float]]] = dataclasses.field(repr=False)

    @classmethod
    def read(cls, workdir: Path) -> "Result":
        e = from_json((workdir / "config.json").read_text(), Experiment)
        records = {kind: read_metrics(workdir, kind) for kind in ("train", "validation")}
        last, unigram = records["validation"][-1], unigram_entropy(e.data, e.evaluation.batches)
        trivial = lambda record: e.objective.trivial(record, unigram)
        score, baseline, value = trivial(last)
        million = e.tokens_per_step() / 1e6
        points = lambda kind, name: [(r["step"] * million, r[name]) for r in records[kind] if r.get(name) is not None]
        curves = {"training": points("train", score), "validation": points("validation", score)}
        # It may change with the model: the more often a generator is right, the less there is to detect.
        curves["baseline"] = [(r["step"] * million, trivial(r)[2]) for r in records["validation"]]
        curves["bits"] = points("validation", "bits_per_byte")
        tokens, minutes = last["step"] * e.tokens_per_step(), cells.minutes(workdir)
        return cls(
            workdir.name,
            titled(e.objective),
            type(e.model).__name__,
            score,
            last[score],
            baseline,
            value,
            value - last[score],
            tokens,
            last["step"],
            minutes,
            tokens / 60 / minutes if minutes else 0.0,
            curves,
        )


def titled(objective: Objective) -> str:
    return " then ".join(type(stage.objective).__name__ for stage in objective.stages(100))


def bits_per_byte(out: Path, results: dict[str, Result]) -> dict[str, list[tuple[float, float]]]:
    """label -> (million tokens, bits a byte) on the same validation text."""
    curves = {}
    if "causal" in results:
        curves["causal"] = results["causal"].curves["bits"]
    for name in ("diffusion", "mlm-diffusion", "diffusion-xlnet"):
        if name in results:
            curves[f"{name} (NELBO)"] = results[name].curves["bits"]
    if {"causal", "hybrid"} <= set(results):
        # Its causal mode on every row. Both score the same tokens, so nats and bits a byte are in one proportion.
        e = from_json((out / "hybrid" / "config.json").read_text(), Experiment)
        run = Run.open(chz.replace(e, objective=chz.replace(e.objective, causal=1 - 1e-12)))
        nats = run.evaluate(run.restore_params(out / "hybrid"), batches=e.evaluation.batches)["causal_nll"]
        last = read_metrics(out / "causal", "validation")[-1]
        curves["hybrid, causal mode"] = [(results["hybrid"].tokens / 1e6, nats * last["bits_per_byte"] / last["nll"])]
    return curves


def table(results: dict[str, Result], bits: dict[str, list[tuple[float, float]]]) -> str:
    """Markdown."""
    head = ("objective", "body", "score", "validation", "baseline", "its value", "gap")
    head += ("tokens (M)", "steps", "minutes", "tokens/s")
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    for r in results.values():
        numbers = (r.baseline_value, r.gap)
        cells_ = [r.objective, r.body, r.score, f"{r.validation:.3f}", r.baseline, *(f"{x:.3f}" for x in numbers)]
        cells_ += [f"{r.tokens / 1e6:.2f}", f"{r.steps:,}", f"{r.minutes:.1f}", f"{r.tokens_per_second:,.0f}"]
        lines.append(" | ".join(cells_))
    lines = [f"| {line} |" for line in lines]
    lines += ["", "Scores are in nats; lower is better, and the gap is what was learned beyond the baseline.", ""]
    lines += [f"- {label}: {points[-1][1]:.3f} bits a byte" for label, points in bits.items()]
    return "\n".join(lines + ["", f"{machine()}."]) + "\n"


def draw(path: Path, results: dict[str, Result], bits: dict[str, list[tuple[float, float]]]) -> None:
    columns = 3
    panels = len(results) + bool(bits)
    rows = -(-panels // columns)
    figure = require("matplotlib.figure", "plot").Figure(figsize=(4.6 * columns, 3.4 * rows), dpi=110)
    figure.set_layout_engine("constrained")
    axes = figure.subplots(rows, columns, squeeze=False).reshape(-1)
    for axis, r in zip(axes, results.values()):
        axis.plot(*zip(*r.curves["training"]), color="#9ecae1", linewidth=0.8, label="training")
        axis.plot(*zip(*r.curves["validation"]), "o-", color="#d94801", markersize=3, linewidth=1.2, label="validation")
        axis.plot(*zip(*r.curves["baseline"]), "--", color="#666666", linewidth=1, label=r.baseline)
        side = "below" if r.gap > 0 else "above"
        axis.set_title(f"{r.objective} on {r.body}: {r.validation:.2f}, {abs(r.gap):.2f} {side}", fontsize=10)
        scores = [y for kind in ("validation", "baseline") for _, y in r.curves[kind]]
        margin = 0.1 * (max(scores) - min(scores)) + 1e-3
        axis.set(ylabel=f"{r.score} (nats)", ylim=(min(scores) - margin, max(scores) + 3 * margin))
    if bits:
        axis = axes[len(results)]
        for label, points in bits.items():
            axis.plot(*zip(*points), "o-", markersize=3, linewidth=1.2, label=f"{label}: {points[-1][1]:.2f}")
        axis.set_title("The same validation text", fontsize=10)
        axis.set(ylabel="bits a byte")
    for axis in axes[:panels]:
        axis.set(xlabel="million tokens", xlim=(0, None))
        axis.grid(color="#e5e5e5", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=8)
    for axis in axes[panels:]:
        axis.set_visible(False)
    figure.savefig(path)


def page(out: Path) -> None:
    """curves.png, table.md and table.json of what is trained to its end."""
    results = {}
    for name in CELLS:
        steps = cells.kept_steps(out / name)
        if steps and cells.is_done(out / name, steps):
            results[name] = Result.read(out / name)
    if not results:
        print("nothing is trained to its end yet")
        return
    bits = bits_per_byte(out, results)
    (out / "table.md").write_text(table(results, bits))
    values = {name: dataclasses.asdict(r) for name, r in results.items()}
    (out / "table.json").write_text(json.dumps({"cells": values, "bits_per_byte": bits}, indent=1) + "\n")
    draw(out / "curves.png", results, bits)
    print(f"\n{table(results, bits)}\n{out / 'curves.png'}")


def run_cell(args, corpus: Corpus, name: str) -> None:
    objective, model = CELLS[name]
    made = lambda steps: cells.experiment(args, corpus, cells.body(model, args.length), objective, steps)
    workdir = args.out / name
    cells.fit(made(cells.kept_steps(workdir) or cells.budget(args, made(10_000))), workdir)


def main() -> None:
    parser = cells.arguments(__doc__)
    parser.add_argument("--only", help=f"some of {','.join(CELLS)}")
    parser.add_argument("--page", action="store_true", help="train nothing, write the page")
    args = parser.parse_args()
    names = args.only.split(",") if args.only else list(CELLS)
    if unknown := set(names) - set(CELLS):
        parser.error(f"--only: there is no {', '.join(sorted(unknown))}, only {', '.join(CELLS)}")
    corpus, failed = cells.start(args), []
    for name in [] if args.page else names:
        print(f"\n== {name}: {titled(CELLS[name][0])} on {CELLS[name][1]}", flush=True)
        try:
            run_cell(args, corpus, name)
        except UserError as error:
            failed.append(name)
            print(f"{name} is left out: {error}", flush=True)
    page(args.out)
    if failed:
        sys.exit(f"left out: {', '.join(failed)}")


if __name__ == "__main__":
    main()
