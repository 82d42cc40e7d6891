"""What is a memory worth? Transformer-XL with and without it, on contiguous rows, equal tokens, some seeds of each.

    python -m benchmarks.objectives.memory --text=../shared/data/books --out=runs/memory --minutes=5

The corpus's documents should be long, such as whole books: neither model sees beyond its document. The runs with and
without memory differ in `memory` alone; their number of steps is what the slower one, with memory, does in --minutes.
The same command goes on where it was stopped. Writes table.md and table.json into --out.
"""

import json
import math
import statistics
from pathlib import Path

from benchmarks.machine import machine
from benchmarks.objectives import cells
from ptjax.logging import read_metrics
from ptjax.objectives import CausalLM

SCORE = "bits_per_byte"


def summary(scores: dict[str, list[float]], steps: int, length: int, memory: int) -> dict:
    """Means and standard deviations over seeds, and their difference: paired, since a seed gives both the same rows."""
    without, with_ = scores["without"], scores["with"]
    gains = [a - b for a, b in zip(without, with_)]
    spread = statistics.stdev(gains) if len(gains) > 1 else math.nan
    return {
        "memory": memory,
        "length": length,
        "steps": steps,
        "tokens": steps * cells.TOKENS_A_STEP,
        "bits a byte": scores,
        "mean": {name: statistics.mean(values) for name, values in scores.items()},
        "standard deviation": {n: statistics.stdev(v) if len(v) > 1 else math.nan for n, v in scores.items()},
        "gain": {"mean": statistics.mean(gains), "standard deviation": spread, "smallest": min(gains)},
        "worst with beats best without": max(with_) < min(without),
        "machine": machine(),
    }


def table(result: dict) -> str:
    """Markdown."""
    seeds = range(len(result["bits a byte"]["with"]))
    lines = ["| memory | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean | standard deviation |"]
    lines += ["|" + " --- |" * (len(seeds) + 3)]
    for name, size in (("without", 0), ("with", result["memory"])):
        values = [*result["bits a byte"][name], result["mean"][name], result["standard deviation"][name]]
        lines.append(f"| {size} | " + " | ".join(f"{value:.4f}" for value in values) + " |")
    gain = result["gain"]
    return "\n".join(lines) + (
        f"\n\nValidation bits a byte after {result['tokens'] / 1e6:.2f} million tokens in rows of {result['length']}. "
        f"The memory gains {gain['mean']:.4f} (standard deviation over seeds {gain['standard deviation']:.4f}, "
        f"smallest {gain['smallest']:.4f}).\n{result['machine']}.\n"
    )


def main() -> None:
    parser = cells.arguments(__doc__)
    parser.add_argument("--memory", type=int, default=96, help="positions of earlier rows that a layer keeps")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    corpus = cells.start(args)
    sizes = {"with": args.memory, "without": 0}

    def made(name: str, seed: int, steps: int):
        model = cells.body("TransformerXL", args.length, memory=sizes[name])
        return cells.experiment(args, corpus, model, CausalLM(), steps, seed=seed, order="contiguous")

    workdir = lambda name, seed: Path(args.out, f"{name}-{seed}")
    cell = [(name, seed) for seed in range(args.seeds) for name in sizes]
    kept = [steps for one in cell if (steps := cells.kept_steps(workdir(*one)))]
    steps = kept[0] if kept else cells.budget(args, made("with", 0, 10_000))
    for one in cell:
        cells.fit(made(*one, steps), workdir(*one))
    scores = {name: [] for name in ("without", "with")}
    for name, seed in cell:
        scores[name].append(read_metrics(workdir(name, seed), "validation")[-1][SCORE])
    result = summary(scores, steps, args.length, args.memory)
    (args.out / "table.json").write_text(json.dumps(result, indent=1) + "\n")
    (args.out / "table.md").write_text(table(result))
    print(f"\n{table(result)}")


if __name__ == "__main__":
    main()
