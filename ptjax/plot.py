"""Pictures of a run."""

from pathlib import Path

from ptjax.logging import read_metrics, require

WINDOWS = 40  # the smoothed line averages over a fortieth of the run to either side


def loss_curve(workdir: str | Path, score: str = "loss", baselines: dict[str, float] | None = None) -> Path:
    """Draws a score of training and validation over steps into workdir/loss.png and returns its path.

    Args:
      score: a name in metrics.jsonl, in nats.
      baselines: label -> nats, drawn as horizontal lines; for one the unigram entropy, which a model that has only
        learned how frequent tokens are cannot go below.

    Raises:
      UserError: matplotlib is not installed; nothing was logged.
    """
    figure = require("matplotlib.figure", "plot").Figure(figsize=(7, 4.2), dpi=130, layout="constrained")
    axes = figure.subplots()
    train, validation = (_points(workdir, kind, score) for kind in ("train", "validation"))
    if train:
        steps, losses = zip(*train)
        axes.plot(steps, losses, color="#9ecae1", linewidth=0.8)
        axes.plot(steps, _smooth(losses), color="#2171b5", linewidth=1.6, label="training (smoothed)")
    if validation:
        steps, losses = zip(*validation)
        axes.plot(steps, losses, "o-", color="#d94801", markersize=4, linewidth=1, label="validation")
        axes.annotate(
            f"{losses[-1]:.2f}",
            (steps[-1], losses[-1]),
            xytext=(0, 7),
            textcoords="offset points",
            color="#d94801",
            ha="center",
            fontsize=9,
        )
    for label, value in (baselines or {}).items():
        axes.axhline(value, color="#666666", linestyle="--", linewidth=1, label=f"{label} ({value:.2f})")
    axes.set(xlabel="step", ylabel=f"{score} (nats a token)", xlim=(0, None))
    axes.grid(color="#e5e5e5", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    path = Path(workdir) / "loss.png"
    figure.savefig(path)
    return path


def _points(workdir, kind: str, score: str) -> list[tuple[int, float]]:
    return [(r["step"], r[score]) for r in read_metrics(workdir, kind) if r.get(score) is not None]


def _smooth(values) -> list[float]:
    """Means over centred windows, narrower towards both ends, so that the line lags nowhere."""
    reach = len(values) // WINDOWS
    result = []
    for i in range(len(values)):
        half = min(reach, i, len(values) - 1 - i)
        result.append(sum(values[i - half : i + half + 1]) / (2 * half + 1))
    return result
