"""How fast does the input pipeline deliver tokens? Reading, shuffling and batching on one core. Goal: 5 M tokens/s.

Sentence pairs, which are made row by row, are to come faster than a small model trains on them.

    python -m benchmarks.input [prepared corpus]

Without an argument, the standard library is prepared first (3 M tokens).
"""

import os
import statistics
import sys
import tempfile
import time

from benchmarks.machine import heading
from ptjax.data.pipeline import Data, Pipeline, batch_at
from ptjax.data.prepare import Corpus, prepare
from ptjax.data.sources import Stdlib
from ptjax.data.tokenizers import SentencePiece
from ptjax.data.transforms import SentencePairs

TOKENS_A_BATCH, STEPS, REPEATS = 32_768, 100, 9


def measure(pipeline: Pipeline) -> tuple[float, float]:
    """(median, worst) million tokens a second, over `REPEATS` stretches of steps of different epochs."""
    batch_at(pipeline, 0)  # imports Grain
    speeds = []
    for repeat in range(REPEATS):
        steps = range(repeat * 10_000, repeat * 10_000 + STEPS)
        start = time.perf_counter()
        tokens = sum(batch_at(pipeline, step)["tokens"].size for step in steps)
        speeds.append(tokens / (time.perf_counter() - start) / 1e6)
    return statistics.median(speeds), min(speeds)


def main() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one core
    print(heading("numpy", "grain", "array_record"))
    with tempfile.TemporaryDirectory() as folder:
        if sys.argv[1:]:
            corpus = Corpus(path=sys.argv[1])
        else:
            corpus = Corpus(path=folder, source=Stdlib(), tokenizer=SentencePiece(model="bpe"))
            prepare(corpus)
        for length in (128, 512, 1024, 4096):
            data = Data(corpus=corpus, length=length, batch_size=TOKENS_A_BATCH // length)
            for kind in ("rows", "order", "next"):
                transforms = [] if kind == "rows" else [SentencePairs(kind)]
                median, worst = measure(Pipeline(data, transforms=transforms))
                rows = median * 1e6 / length
                speed = f"median {median:4.1f} M tokens/s, worst {worst:4.1f}"
                print(f"length {length:5}, {kind:5}: {speed}; {rows:,.0f} rows/s")


if __name__ == "__main__":
    main()
