"""A small Transformer-XL learns to continue Python code with a memory of the rows before: no data needed.

Rows come in the order of the text, and each layer sees as much again of what came before its row (`memory`; Dai et
al., 2019). causal_stdlib's optimizer and budget; not tuned for this body. model.memory=0 data.order=shuffled takes the
memory away.
"""

from ptjax.data.pipeline import Data
from ptjax.data.prepare import Corpus
from ptjax.data.sources import Stdlib
from ptjax.data.tokenizers import SentencePiece
from ptjax.models import TransformerXL
from ptjax.objectives import CausalLM
from ptjax.optim import Linear, Muon
from ptjax.train import Evaluation, Experiment


def get_config(steps: int = 1500, corpus: str = "data/stdlib", memory: int = 128) -> Experiment:
    return Experiment(
        model=TransformerXL.preset("tiny", layers=4, memory=memory, std=0.05, dropout=0.0, attention_dropout=0.0),
        objective=CausalLM(),
        data=Data(
            corpus=Corpus(path=corpus, source=Stdlib(), tokenizer=SentencePiece(vocab_size=4096)),
            length=128,
            batch_size=32,
            order="contiguous",
        ),
        optimizer=Muon(peak_lr=5e-3, weight_decay=0.1, schedule=Linear(warmup=0.01)),
        steps=steps,
        evaluation=Evaluation(every=max(steps // 5, 1)),
    )
