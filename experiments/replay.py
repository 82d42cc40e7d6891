"""Rebuild one step of a run from (seed, step) and a checkpoint: its batch, masks and loss, readable, on one CPU.

python -m experiments.replay --workdir=runs/mlm_stdlib --step=120
"""

import chz
import jax
import numpy as np

from ptjax.checkpoint import Checkpoints
from ptjax.config import UserError
from ptjax.partition import MeshConfig
from ptjax.replay import Reader, replay
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
    reader = Reader(run.tokenizer, run.learner.vocab)
    for question in result.questions:
        asked = f", {question.name}" if question.name else ""
        for i in np.flatnonzero(question.batch["index"] >= 0):
            head = f"--- example {question.batch['index'][i]}{asked}, loss {question.row_loss[i]:.4f}"
            lines += [head, reader.row(question.batch, i), ""]
    folder = workdir / "replay"
    folder.mkdir(exist_ok=True)
    (folder / f"step-{step}.txt").write_text("\n".join(lines), encoding="utf-8")
    np.savez_compressed(folder / f"step-{step}.npz", **result.arrays())
    print(f"{lines[0]}\ntext    {folder / f'step-{step}.txt'}\narrays  {folder / f'step-{step}.npz'}")


if __name__ == "__main__":
    cli.run(main, base=Experiment, flags=FLAGS, doc=__doc__)
