"""Masked or causal? Two small models learn from the same tokens of the Python that runs them, and then its tasks:
`make compare`, ten minutes on two cores, nothing to download. Laptop size: it shows what a comparison is, and what two
minutes of pre-training can."""

from pathlib import Path

import chz

from ptjax.compare import Arm, Comparison
from ptjax.config import load
from ptjax.data.pipeline import Data
from ptjax.data.prepare import Corpus
from ptjax.data.sources import Stdlib
from ptjax.data.tokenizers import SentencePiece
from ptjax.models import ModernBERT
from ptjax.objectives import MLM
from ptjax.optim import WSD, Muon
from ptjax.train import Evaluation, Experiment

SUITE = Path(__file__).parents[1] / "suites" / "stdlib.py"


def get_config(steps: int = 500, corpus: str = "data/stdlib-2k") -> Comparison:
    both_ways = [f"tasks.{k}.attention=bidirectional" for k in range(3)]  # when they are fine-tuned, whatever they were
    suite = load(f"{SUITE}:seeds=1,examples=800", both_ways)
    return Comparison(
        name="stdlib",
        question="Which makes the better body of equal tokens: masked or causal language modelling?",
        base=Experiment(
            model=ModernBERT(layers=3, width=96, heads=2, hidden=144, max_length=256, std=0.05),
            objective=MLM(rate=0.3),  # as ModernBERT masks
            data=Data(
                corpus=Corpus(path=corpus, source=Stdlib(), tokenizer=SentencePiece(vocab_size=2048)),
                length=64,
                batch_size=32,
            ),
            # Constant, then down over the last steps: an arm that goes on from another leaves before that.
            optimizer=Muon(peak_lr=5e-3, weight_decay=0.1, schedule=WSD(warmup=0.01, cooldown=0.4)),
            steps=steps,
            evaluation=Evaluation(every=max(steps // 4, 1), batches=20),
        ),
        arms=(
            Arm(name="mlm", about="30 of 100 tokens from all the others"),
            Arm(name="causal", changes=("objective=CausalLM",), about="each token from those before it"),
        ),
        match="tokens",
        suite=chz.replace(suite, recipe=chz.replace(suite.recipe, learning_rates=(2e-3,), epochs=3.0, evaluations=1)),
    )
