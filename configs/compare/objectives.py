"""Masked, causal, or both? MLM, CausalLM and Hybrid read the same 1.6 million tokens of books and learn the same tasks.

The trend that is looked at: Charpentier and Samuel, 2024, "GPT or BERT: why not both?" (BabyLM), where one model of
both kinds beats either at equal tokens. Laptop size: a body of 0.4 million parameters that reads 1.6 million tokens,
where theirs had 30 and 119 million and read up to 100 million words many times over.

Body and recipe are those of stdlib.py. `books` is a folder with train/ and validation/ of text files; `tasks` is that
of configs/suites/small.py.
"""

from pathlib import Path

import chz

from ptjax.compare import Arm, Comparison
from ptjax.config import load
from ptjax.data.prepare import Corpus
from ptjax.data.sources import TextFiles
from ptjax.data.tokenizers import SentencePiece
from ptjax.train import Evaluation

STDLIB = Path(__file__).with_name("stdlib.py")
SUITE = Path(__file__).parents[1] / "suites" / "small.py"


def get_config(books: str, tasks: str, corpus: str = "data/books", steps: int = 800) -> Comparison:
    prepared = Corpus(
        path=corpus,
        source=TextFiles(glob=f"{books}/train/*.txt"),
        validation=TextFiles(glob=f"{books}/validation/*.txt"),
        tokenizer=SentencePiece(vocab_size=2048, sample_bytes=2_000_000),
    )
    base = load(f"{STDLIB}").base
    return Comparison(
        name="objectives",
        question="Masked or causal language modelling, or both in one: which makes the better body of equal tokens?",
        base=chz.replace(
            base,
            data=chz.replace(base.data, corpus=prepared),
            steps=steps,
            evaluation=Evaluation(every=max(steps // 4, 1), batches=20),
        ),
        arms=(
            Arm(name="mlm", about="30 of 100 tokens from all the others"),
            Arm(name="causal", changes=("objective=CausalLM",), about="each token from those before it"),
            Arm(
                name="hybrid",
                changes=("objective=Hybrid", "objective.final_rate=None"),  # published: falling to 15 of 100
                about="30 of 100 masked next tokens, and one row in 16 causal",
            ),
        ),
        match="tokens",
        rates=(0.5, 1.0, 2.0),
        suite=load(f"{SUITE}:data={tasks}"),
    )
