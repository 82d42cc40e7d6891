"""ptjax by its public path: the step that `experiments.pretrain` compiles, with its corruption, metrics and norms.

--tree: the source tree whose ptjax it is. --options: overrides of the experiment, as on a command line.
"""

import sys
from collections.abc import Callable, Sequence

import numpy as np

from . import worker
from .items import Item, batches


def experiment(item: Item, dropout: float):
    """The Experiment that trains the item."""
    from ptjax.data.pipeline import Data
    from ptjax.data.prepare import Corpus
    from ptjax.models import BERT, GPT
    from ptjax.objectives import MLM, CausalLM
    from ptjax.optim import AdamW, Constant
    from ptjax.train import Experiment

    sizes = dict(layers=item.layers, width=item.width, heads=item.heads, hidden=item.hidden)
    sizes |= dict(dropout=dropout, attention_dropout=dropout)
    mlm, (b1, b2) = item.kind == "mlm", worker.BETAS
    return Experiment(
        model=BERT(**sizes, max_length=max(item.length, 512)) if mlm else GPT(**sizes, max_length=item.length),
        objective=MLM() if mlm else CausalLM(),
        data=Data(corpus=Corpus(path="random ids"), length=item.length, batch_size=item.batch),
        optimizer=AdamW(
            peak_lr=worker.RATE,
            schedule=Constant(warmup=0),
            weight_decay=worker.DECAY,
            clip=None,
            b1=b1,
            b2=b2,
            eps=worker.EPSILON,
        ),
        steps=1_000_000,
    )


def training(item: Item, dropout: float, overrides: Sequence[str] = ()) -> Callable[[int], float]:
    """step(i) of the experiment, on random ids."""
    import jax

    from ptjax import partition
    from ptjax.config import override
    from ptjax.data.tokenizers import VocabSpec
    from ptjax.learner import Learner
    from ptjax.train import Run

    trained = override(experiment(item, dropout), list(overrides))
    # Run.open without a corpus: no id of a batch is a boundary, so that each row is one document.
    mesh, learner = partition.make_mesh(trained.mesh), Learner(trained, VocabSpec.synthetic(item.vocab))
    run = Run(trained, learner, mesh, None, *learner.shardings(mesh))
    state, compiled = run.init(), run.train_step(0)
    rows, data = np.arange(item.batch, dtype=np.int32), [batch["tokens"] for batch in batches(item)]

    def step(i: int) -> float:
        nonlocal state
        batch = {"index": rows + i * item.batch, "tokens": data[i % len(data)]}
        state, metrics = compiled(state, compiled.place(batch))
        total, weight = jax.device_get(metrics)["loss"]
        return float(total) / float(weight)

    return step


def main() -> None:
    arguments = worker.arguments(tree=dict(default=None))
    if arguments.tree:
        sys.path.insert(0, arguments.tree)
    from experiments.cli import set_up_jax

    set_up_jax()  # as every main does, before jax allocates anything
    step = training(arguments.item, arguments.dropout, sorted(arguments.options))
    worker.serve(step, "jax", "jaxlib", "flax", "optax")


if __name__ == "__main__":
    main()
