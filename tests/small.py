"""Small experiments on the tiny corpus, for tests of everything that runs around a training step."""

import dataclasses
import functools
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType
from unittest import mock

import jax
import numpy as np

from experiments import cli
from ptjax.checkpoint import Checkpoints
from ptjax.config import to_json
from ptjax.data.pipeline import Data
from ptjax.logging import Logging
from ptjax.models import BERT, GPT
from ptjax.objectives import MLM, CausalLM
from ptjax.optim import AdamW, Constant
from ptjax.train import Checkpointing, Evaluation, Experiment, Run, train

SIZE = dict(layers=2, unroll=False, width=32, heads=2, hidden=64, max_length=64, dropout=0.0, attention_dropout=0.0)
KINDS = {"mlm": (MLM(rate=0.2), BERT(**SIZE)), "causal": (CausalLM(), GPT(**SIZE))}


def experiment(corpus, kind: str = "mlm", **changes) -> Experiment:
    """Ten steps on rows of 32 tokens, a line of the log for each; validation and checkpoints at the end only."""
    objective, model = KINDS[kind]
    settings = dict(
        model=model,
        objective=objective,
        data=Data(corpus=corpus, length=32, batch_size=16),
        optimizer=AdamW(peak_lr=3e-3, schedule=Constant(warmup=2)),
        steps=10,
        checkpoint=Checkpointing(minutes=None, best=None),
        evaluation=Evaluation(batches=2),
        logging=Logging(every=1, progress=False),
    )
    return Experiment(**(settings | changes))


@dataclasses.dataclass(frozen=True)
class Trained:
    """A run that has ended, with its workdir. Tests leave the workdir as they found it."""

    run: Run
    workdir: Path


class Runs:
    """Trains each kind once: checkpoints at 3, 6, 9 and 10 of 10 steps, validation after 5 and 10."""

    def __init__(self, corpus, folder: Path):
        self.corpus, self.folder = corpus, folder
        self.trained = functools.cache(self._train)

    def _train(self, kind: str) -> Trained:
        checkpoint = Checkpointing(every=3, minutes=None, keep=9, best=None)
        run = Run.open(experiment(self.corpus, kind, checkpoint=checkpoint, evaluation=Evaluation(every=5)))
        train(run, self.folder / kind)
        return Trained(run, self.folder / kind)


def saved(experiment: Experiment, workdir: Path) -> Trained:
    """A run that has only saved its initial state, as step 0: nothing is trained, and little is compiled."""
    run, text = Run.open(experiment), to_json(experiment)
    checkpoints = Checkpoints(workdir / "checkpoints")
    checkpoints.save(0, run.init(), config_json=text)
    checkpoints.close()
    (workdir / "config.json").write_text(text)
    return Trained(run, workdir)


def same(a, b) -> bool:
    """Whether all leaves of two trees are bitwise equal."""
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, jax.device_get(a), jax.device_get(b))))


def rewound(workdir: Path, step: int, to: Path) -> Path:
    """A copy of a workdir whose last checkpoint is that of `step`."""
    shutil.copytree(workdir, to)
    for later in (to / "checkpoints").iterdir():
        if later.name.isdigit() and int(later.name) > step:
            shutil.rmtree(later)
    return to


def call(module: ModuleType, *arguments: str, **settings) -> int:
    """The exit code of an experiment's main, run in this process as from a shell; the process stays as it was.
    settings: what else the main gives to `cli.run`."""
    environment = {name: value for name, value in os.environ.items() if name != "PTJAX_DEBUG"}
    with (
        mock.patch.object(sys, "argv", [module.__name__, *arguments]),
        mock.patch.object(cli, "set_up_jax", lambda **_: None),
        mock.patch.dict(os.environ, environment, clear=True),
    ):
        try:
            cli.run(module.main, flags=module.FLAGS, doc=module.__doc__, **{"base": Experiment} | settings)
        except SystemExit as exit:
            return exit.code
