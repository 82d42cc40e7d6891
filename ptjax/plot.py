"""Pictures of a run."""

import math
from pathlib import Path

from ptjax.logging import read_metrics, require

SMOOTHING = 0.9  # decay of the running mean drawn over the raw losses


def loss_curve(workdir: str | Path, baselines: dict[str, float] | None = None) -> Path:
    """Draws training and validation loss over steps into workdir/loss.png and returns its path.

    Args:
      baselines: label -> nats, drawn as horizontal lines; for one the unigram entropy, which a model that has only
        learned how frequent tokens are cannot go below.

    Raises:
      UserError: matplotlib is not installed; nothing was logged.
    """
    figure = require("matplotlib.figure", "plot").Figure(figsize=(7, 4.2), dpi=130, layout="constrained")
    axes = figure.subplots()
    train, validation = (_points(workdir, kind) for kind in ("train", "validation"))
    if train:
        steps, losses = zip(*train)
        axes.plot(steps, losses, color="#9ecae1", linewidth=0.8)
        axes.plot(steps, _smooth(losses), color="#2171b5", linewidth=1.6, label="training (smoothed)")
    if validation:
        steps, losses = zip(*validation)
        axes.plot(steps, losses, "o-", color="#d94801", markersize=4, linewidth=1, label="validation")
        axes.annotate(
            f"{losses[-1]:.2f}", (steps[-1], losses[-1]), xytext=(-4, -13), textcoords="offset points",
            color="#d94801", ha="right", fontsize=9,
        )
    for label, value in (baselines or {}).items():
        axes.axhline(value, color="#666666", linestyle="--", linewidth=1, label=f"{label} ({value:.2f})")
    axes.set(xlabel="step", ylabel="loss (nats a token)", xlim=(0, None))
    axes.grid(color="#e5e5e5", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    path = Path(workdir) / "loss.png"
    figure.savefig(path)
    return path


def _points(workdir, kind: str) -> list[tuple[int, float]]:
    return [(r["step"], r["loss"]) for r in read_metrics(workdir, kind) if r.get("loss") is not None]


def _smooth(values) -> list[float]:
    """An exponential mean without bias at the start."""
    result, total = [], 0.0
    for count, value in enumerate(values, 1):
        total = SMOOTHING * total + (1 - SMOOTHING) * value
        result.append(total / (1 - math.pow(SMOOTHING, count)))
    return result
