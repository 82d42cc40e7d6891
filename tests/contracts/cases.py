"""What the laws run on. A new objective or body joins all of them by adding itself to a list here."""

import functools

import jax
import numpy as np
from jax.sharding import AxisType

from ptjax.data.pipeline import Data
from ptjax.data.prepare import Corpus
from ptjax.data.tokenizers import VocabSpec
from ptjax.learner import Learner
from ptjax.models import BERT, GPT
from ptjax.objectives import MLM, CausalLM
from ptjax.optim import SGD, Constant
from ptjax.partition import MeshConfig, compile_step, make_mesh
from ptjax.train import Experiment

SIZE = dict(layers=2, unroll=False, width=32, heads=2, hidden=64, max_length=64, dropout=0.0, attention_dropout=0.0)
OBJECTIVES = {
    "mlm": MLM(rate=0.2),
    "mlm-whole-words": MLM(rate=0.3, unit="word", mask_share=0.6, random_share=0.2),
    "causal": CausalLM(),
    "causal-regularised": CausalLM(z_loss=1e-3, label_smoothing=0.1),
}
BODIES = {"bert": BERT(**SIZE), "gpt": GPT(**SIZE)}
# Every kind of objective on every body; other settings of a kind on one body, since compiling is what costs.
KINDS = ["mlm", "causal"]
PAIRS = [(kind, body) for kind in KINDS for body in BODIES] + [
    ("mlm-whole-words", "bert"),
    ("causal-regularised", "gpt"),
]

VOCAB = VocabSpec.synthetic(300)
ROWS, LENGTH = 16, 32
ONE = MeshConfig(data=1)


def experiment(objective, body, **changes) -> Experiment:
    """A small experiment by SGD at a constant rate, under which equal gradients give equal parameters."""
    settings = dict(
        model=BODIES.get(body, body),
        objective=OBJECTIVES.get(objective, objective) if isinstance(objective, str) else objective,
        data=Data(corpus=Corpus(path="unused"), length=LENGTH, batch_size=ROWS),
        optimizer=SGD(peak_lr=0.5, momentum=0.0, weight_decay=0.0, schedule=Constant(warmup=0)),
        steps=10,
        mesh=ONE,
    )
    return Experiment(**(settings | changes))


def batch(step: int = 0, rows: int = ROWS, length: int = LENGTH, vocab: VocabSpec = VOCAB) -> dict[str, np.ndarray]:
    """Random rows: documents of about ten tokens, and padding that differs from row to row."""
    random = np.random.default_rng(step)
    tokens = random.integers(len(vocab.special_ids), vocab.size, (rows, length)).astype(np.int32)
    tokens[random.random(tokens.shape) < 0.1] = vocab.boundary_id
    tokens[np.arange(length) >= random.integers(length // 4, length + 1, rows)[:, None]] = vocab.pad_id
    return {"index": (np.arange(rows) + rows * step).astype(np.int32), "tokens": tokens}


@functools.cache
def fresh_params(objective: str, body: str):
    """(learner, initial params), made once a process."""
    learner = Learner(experiment(objective, body), VOCAB)
    return learner, jax.jit(learner.init_state)(np.uint32(0)).params


class Trainer:
    """An experiment compiled for a mesh, without data: the laws give it batches."""

    def __init__(self, experiment: Experiment, vocab: VocabSpec = VOCAB):
        self.learner = Learner(experiment, vocab)
        if experiment.mesh is ONE:
            shape, axes = (1, 1, 1), ("data", "fsdp", "tensor")
            mesh = jax.make_mesh(shape, axes, axis_types=(AxisType.Auto,) * 3, devices=jax.devices()[:1])
        else:
            mesh = make_mesh(experiment.mesh)
        _, shardings = self.learner.shardings(mesh)
        self.state = jax.jit(self.learner.init_state, out_shardings=shardings)(np.uint32(experiment.seed))
        layout = experiment.mesh.layout
        self.step = compile_step(self.learner.train_step, mesh, experiment.mesh.rules, shardings, shardings, layout)

    def train(self, batches) -> dict[str, float]:
        """Takes a step on each batch; the metrics of the last one."""
        for host in batches:
            self.state, metrics = self.step(self.state, self.step.place(host))
        return {name: float(total / weight) for name, (total, weight) in jax.device_get(metrics).items()}

    @property
    def params(self):
        return jax.device_get(self.state.params)


def distance(a, b) -> float:
    """Largest difference of two trees, relative to the largest value of the leaf."""
    gaps = jax.tree.map(lambda x, y: np.abs(x - y).max() / max(np.abs(x).max(), 1e-6), a, b)
    return max(jax.tree.leaves(gaps))
