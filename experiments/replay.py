"""Rebuild one step of a run from (seed, step) and a checkpoint: its batch, masks and loss, readable, on one CPU.

python -m experiments.replay --workdir=runs/mlm_stdlib --step=120
"""

import chz
import jax
import numpy as np

from ptjax.checkpoint import Checkpoints
from ptjax.config import UserError
from ptjax.partition import MeshConfig
from ptjax.replay import replay
from ptjax.train import Experiment, Run

from . import cli

FLAGS = {
    "--step": dict(type=int, required=True, help="which step, counted from 1 as in metrics.jsonl"),
    "--checkpoint": dict(type=int, help="whose parameters, 0: initial ones (default: the newest from before the step)"),
}


def main(command: cli.Command) -> None:
    jax.config.update("jax_platforms", "cpu")
    step, workdir = command.flags.step, command.workdir
    experiment = chz.replace(command.config, mesh=MeshConfig())
    if not 1 <= step <= experiment.steps:
        raise UserError(f"--step={step}: the run has steps 1 to {experiment.steps}")
    run = Run.open(experiment, jax.devices()[:1])
    checkpoints = Checkpoints(workdir / "checkpoints")
    saved = checkpoints.steps()
    chosen = command.flags.checkpoint
    if chosen is None:
        chosen = max([s for s in saved if s < step], default=0)
    state, chosen = checkpoints.restore(run.abstract, chosen) if chosen else (run.init(), 0)
    result = replay(run, state, step)

    whose = "as training saw it" if chosen == step - 1 else f"of its batch under the parameters of step {chosen}"
    if chosen == step - 1 and max(experiment.model.dropout, experiment.model.attention_dropout):
        whose += "; dropout as one device draws it"
    lines = [f"step {step}: loss {result.metrics['loss']:.6f} ({whose})", ""]
    for i, index in enumerate(result.batch["index"]):
        lines += [f"--- example {index}, loss {result.row_loss[i]:.4f}", _readable(run, result.batch, i), ""]
    folder = workdir / "replay"
    folder.mkdir(exist_ok=True)
    (folder / f"step-{step}.txt").write_text("\n".join(lines), encoding="utf-8")
    np.savez_compressed(folder / f"step-{step}.npz", row_loss=result.row_loss, **result.batch)
    print(f"{lines[0]}\ntext    {folder / f'step-{step}.txt'}\narrays  {folder / f'step-{step}.npz'}")


def _readable(run: Run, batch: dict[str, np.ndarray], row: int) -> str:
    """The text, with what was changed as [original>shown] and what was asked unchanged as [original]."""
    tokenizer, shown = run.pipeline.tokenizer, batch["tokens"][row]
    original = batch.get("original", batch["tokens"])[row]
    asked = set()
    if "positions" in batch:
        weights = batch.get("weights", np.ones_like(batch["positions"]))
        asked = set(batch["positions"][row][weights[row] > 0].tolist())
    names = {tokenizer.vocab.mask_id: "<mask>", tokenizer.vocab.boundary_id: "<end>\n", tokenizer.vocab.pad_id: "<pad>"}
    piece = lambda token: names.get(int(token)) or tokenizer.decode([int(token)])
    text, plain = [], []
    for at in range(len(shown)):
        if at in asked:
            change = "" if shown[at] == original[at] else f">{piece(shown[at])}"
            text += [_decode(tokenizer, plain, names), f"[{piece(original[at])}{change}]"]
            plain = []
        else:
            plain.append(int(shown[at]))
    return "".join([*text, _decode(tokenizer, plain, names)])


def _decode(tokenizer, ids: list[int], names: dict[int, str]) -> str:
    """Decodes runs together, so that characters spelled in bytes come out whole."""
    text, run = [], []
    for token in ids:
        if token in names:
            text += [tokenizer.decode(run), names[token]]
            run = []
        else:
            run.append(token)
    return "".join([*text, tokenizer.decode(run)])


if __name__ == "__main__":
    cli.run(main, base=Experiment, flags=FLAGS, doc=__doc__)
