"""ptjax by its public path, in bfloat16: the step that `experiments.pretrain` compiles, on packed rows.

--options: overrides of the experiment, as on a command line.
"""

import sys

import numpy as np

from benchmarks.gpu.work import Work, arguments
from benchmarks.peers import worker
from benchmarks.peers.items import batches


def experiment(work: Work, dropout: float):
    """The Experiment that trains it. Attention probabilities are not dropped: no fused kernel would honour it."""
    from ptjax.data.pipeline import Data
    from ptjax.data.prepare import Corpus
    from ptjax.models import BERT, GPT, ModernBERT
    from ptjax.objectives import MLM, CausalLM
    from ptjax.optim import AdamW, Constant
    from ptjax.train import Experiment

    family = {"bert": BERT, "gpt2": GPT, "modernbert": ModernBERT}[work.family]
    sizes = dict(layers=work.layers, width=work.width, heads=work.heads, hidden=work.hidden)
    sizes |= dict(dropout=dropout, attention_dropout=0.0, max_length=work.length, dtype="bfloat16")
    b1, b2 = worker.BETAS
    rates = dict(peak_lr=worker.RATE, schedule=Constant(warmup=0), weight_decay=worker.DECAY, clip=None)
    return Experiment(
        model=family(**sizes),
        objective=MLM() if work.kind == "mlm" else CausalLM(),
        data=Data(corpus=Corpus(path="random ids"), length=work.length, batch_size=work.batch),
        optimizer=AdamW(**rates, b1=b1, b2=b2, eps=worker.EPSILON),
        steps=1_000_000,
    )


def packed(work: Work, boundary: int) -> list[np.ndarray]:
    """int32[B, L] random ids in which documents end, each position with the same chance."""
    random = np.random.default_rng(1)
    made = [batch["tokens"] for batch in batches(work)]
    return [np.where(random.random(ids.shape) < work.documents / work.length, boundary, ids) for ids in made]


def main() -> None:
    asked = arguments(__doc__)
    from experiments.cli import set_up_jax

    set_up_jax()  # as every main does, before jax allocates anything

    import jax

    from ptjax import partition
    from ptjax.config import override
    from ptjax.data.tokenizers import VocabSpec
    from ptjax.learner import Learner
    from ptjax.train import Run

    work, vocab = asked.work, VocabSpec.synthetic(asked.work.vocab)
    trained = override(experiment(work, asked.dropout), sorted(asked.options))
    # Run.open without a corpus.
    mesh, learner = partition.make_mesh(trained.mesh, jax.devices()[:1]), Learner(trained, vocab)
    run = Run(trained, learner, mesh, None, *learner.shardings(mesh))
    state, compiled = run.init(), run.train_step(0)
    rows, data = np.arange(work.batch, dtype=np.int32), packed(work, vocab.boundary_id)

    def batch(step: int) -> dict:
        ids = {"index": rows + step * work.batch, "tokens": data[step % len(data)].astype(np.int32)}
        return compiled.place(ids)

    if jax.default_backend() == "gpu" and "__cudnn$fmha" not in compiled.lower(state, batch(0)).as_text():
        sys.exit("the step does not call cuDNN's attention")

    def step(reading: int) -> float:
        nonlocal state
        for number in range(reading * asked.steps, (reading + 1) * asked.steps):
            state, metrics = compiled(state, batch(number))
        total, weight = jax.device_get(metrics)["loss"]
        return float(total) / float(weight)

    worker.serve(step, "jax", "jaxlib", "flax", "optax")


if __name__ == "__main__":
    main()
