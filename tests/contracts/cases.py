"""What the tests of laws run on. What ptjax.objectives and ptjax.models export joins them by itself; one that wants
settings, or whose laws a pair of PAIRS is to hold on every run of the suite, adds a line here."""

import functools

import jax
import numpy as np

from ptjax import check, models, objectives
from ptjax.check.subject import distance  # noqa: F401
from ptjax.data.pipeline import Data
from ptjax.data.prepare import Corpus
from ptjax.data.tokenizers import VocabSpec
from ptjax.learner import Learner
from ptjax.models import BERT, GPT, Llama
from ptjax.models.base import ModelConfig
from ptjax.models.feed_forward import Experts
from ptjax.models.llama import LinearScaling
from ptjax.objectives import MLM, CausalLM, Objective, Part, Phase
from ptjax.optim import SGD, Constant
from ptjax.partition import MeshConfig
from ptjax.train import Experiment

SIZE = dict(layers=2, unroll=False, width=32, heads=2, hidden=64, max_length=64, dropout=0.0, attention_dropout=0.0)
SETTINGS = {
    "ALBERT": dict(embedding=16),
    "ELECTRA": dict(embedding=16),
    "DeBERTa": dict(taps=3),
    "Mixed": dict(mixture=(Part(objective=MLM(), weight=2.0), Part(objective=CausalLM(), weight=1.0))),
    "Llama": dict(kv_heads=4, head_dim=8, qkv_bias=True, qk_norm=True, scaling=LinearScaling(factor=2.0)),
    "ModernBERT": dict(window=8),
    "TransformerXL": dict(memory=48),
    "Schedule": dict(phases=(Phase(objective=CausalLM(), share=2.0), Phase(objective=MLM(), share=1.0))),
}


def exported(module, base: type) -> dict[str, type]:
    """Name -> class, of what a package exports, the base itself left out."""
    found = {name: getattr(module, name) for name in module.__all__}
    return {k: v for k, v in found.items() if isinstance(v, type) and issubclass(v, base) and v is not base}


# Every objective and every body that ships, as `make check-all` pairs them.
SHIPPED_OBJECTIVES = {name: cls(**SETTINGS.get(name, {})) for name, cls in exported(objectives, Objective).items()}
SHIPPED_BODIES = {name: cls(**SETTINGS.get(name, {})) for name, cls in exported(models, ModelConfig).items()}
OBJECTIVES = {
    "mlm": MLM(rate=0.2),
    "mlm-whole-words": MLM(rate=0.3, unit="word", mask_share=0.6, random_share=0.2),
    "causal": CausalLM(),
    "causal-regularised": CausalLM(z_loss=1e-3, label_smoothing=0.1),
}
BODIES = {
    "bert": BERT(**SIZE),
    "gpt": GPT(**SIZE),
    "mixtral": Llama(experts=Experts(count=4), kv_heads=4, window=12),
}
# Every row and every column of the table, once at least: compiling is what costs.
PAIRS = [
    ("MLM", "BERT"),
    ("CausalLM", "GPT"),
    ("CausalLM", "Llama"),
    ("CausalLM", "mixtral"),
    ("CausalLM", "TransformerXL"),
    ("PrefixLM", "BERT"),
    ("Hybrid", "GPT"),
    ("MaskedDiffusion", "BERT"),
    ("RTD", "ELECTRA"),
    ("MLM", "DeBERTa"),
    ("MLM", "ModernBERT"),
    ("NSP", "BERT"),
    ("SOP", "ALBERT"),
    ("PLM", "XLNet"),
    ("SpanCorruption", "T5"),
    ("UL2", "GPT"),
    ("Mixed", "GPT"),
    ("Schedule", "BERT"),
    ("mlm-whole-words", "RoBERTa"),
    ("causal-regularised", "GPT"),
]

VOCAB = VocabSpec.synthetic(300)
ROWS, LENGTH = 16, 32
ONE = MeshConfig(data=1)


def experiment(objective, body, **changes) -> Experiment:
    """A small experiment by SGD at a constant rate, under which equal gradients give equal parameters."""
    settings = dict(
        model=(SHIPPED_BODIES | BODIES)[body] if isinstance(body, str) else body,
        objective=(SHIPPED_OBJECTIVES | OBJECTIVES)[objective] if isinstance(objective, str) else objective,
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


def Trainer(experiment: Experiment, vocab: VocabSpec = VOCAB) -> check.Trainer:
    return check.Trainer(experiment, vocab)
