"""Pre-train a model; the same command again resumes.

python -m experiments.pretrain --config=configs/mlm_stdlib.py --workdir=runs/mlm optimizer.peak_lr=3e-3
python -m experiments.pretrain --config=configs/mlm_stdlib.py --workdir=runs/causal objective=CausalLM
"""

import jax
from jax.experimental import multihost_utils

from ptjax.checkpoint import has_checkpoint
from ptjax.config import UserError, describe
from ptjax.generate import Predictor
from ptjax.metrics.baseline import unigram_entropy
from ptjax.plot import loss_curve
from ptjax.summary import summarize
from ptjax.train import Experiment, Run, train
from ptjax.weights import config_of

from . import cli, show
from .prepare import ensure_prepared

FLAGS = {"--dry-run": dict(action="store_true", help="print parameters, FLOPs, memory and mesh; train nothing")}


def main(command: cli.Command) -> None:
    experiment, workdir = command.config, command.workdir
    print(describe(experiment), flush=True)
    begins = not has_checkpoint(workdir)
    if experiment.init_from and begins:
        config_of(experiment.init_from)  # what is not there is said before a corpus is prepared
    if jax.process_index() == 0:
        ensure_prepared(experiment.data.corpus)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("corpus is prepared")
    run = Run.open(experiment)
    if command.flags.dry_run:
        run.pipeline, begins and run.beginning  # what does not fit is said before anything compiles
        show.summary(summarize(run))
        if begins and run.beginning:
            print(run.beginning)
        return
    state, scores = train(run, workdir)
    # Every process goes on: each may hold a part of the model. Only the first one speaks.
    show.console.quiet = jax.process_index() > 0
    trivial = run.learner.objective.trivial(scores, unigram_entropy(experiment.data, experiment.evaluation.batches))
    if trivial:
        show.against_trivial(scores, *trivial)
    show.examples(Predictor.of_state(run, state), experiment.data)
    if jax.process_index():
        return
    try:
        score, *baseline = trivial or ("loss",)
        print(f"\nloss curve   {loss_curve(workdir, score, dict([baseline]) if baseline else {})}")
    except UserError as error:
        print(f"\nloss curve   not drawn: {error}")
    print(f"checkpoints  {workdir / 'checkpoints'}\nmetrics      {workdir / 'metrics.jsonl'}")


if __name__ == "__main__":
    cli.run(main, base=Experiment, flags=FLAGS, doc=__doc__)
