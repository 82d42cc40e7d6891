"""How fast does the input pipeline deliver tokens? Reading, shuffling and batching on one core. Goal: 5 M tokens/s.

Sentence pairs, which are made row by row, are to come faster than a small model trains on them.

    python -m benchmarks.input [prepared corpus]

Without an argument, the standard library is prepared first (3 M tokens). The floor is NumPy alone: rows at random from
an array of the corpus in memory, widened from 16 to 32 bits.
"""

import os
import statistics
import sys
import tempfile

import numpy as np

from benchmarks.machine import heading, seconds, table
from ptjax.data.pipeline import Data, Pipeline, batch_at
from ptjax.data.prepare import Corpus, prepare
from ptjax.data.sources import Stdlib
from ptjax.data.tokenizers import SentencePiece
from ptjax.data.transforms import SentencePairs

TOKENS_A_BATCH, STEPS, REPEATS, GOAL = 32_768, 100, 9, 5.0


def measure(pipeline: Pipeline) -> list[float]:
    """Million tokens a second, of each of `REPEATS` stretches of steps of different epochs."""
    batch_at(pipeline, 0)  # imports Grain

    def read(first: int) -> None:
        for step in range(first, first + STEPS):
            batch_at(pipeline, step)

    tokens = STEPS * pipeline.batch_size * pipeline.length
    return [tokens / seconds(lambda: read(repeat * 10_000)) / 1e6 for repeat in range(REPEATS)]


def floor(pipeline: Pipeline) -> float:
    """Million tokens a second, the median."""
    size, length = pipeline.batch_size, pipeline.length
    stream = np.ones((pipeline.rows, length), np.uint16)  # zeros would all lie in one page
    steps = np.random.default_rng(0).integers(pipeline.rows, size=(STEPS, size))

    def read() -> None:
        for rows in steps:
            stream[rows].astype(np.int32)

    return statistics.median(STEPS * size * length / seconds(read) / 1e6 for _ in range(REPEATS))


def main() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one core
    print(heading("numpy", "grain", "array_record") + "\n")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        if sys.argv[1:]:
            corpus = Corpus(path=sys.argv[1])
        else:
            corpus = Corpus(path=folder, source=Stdlib(), tokenizer=SentencePiece(model="bpe"))
            prepare(corpus)
        for length in (128, 512, 1024, 4096):
            data = Data(corpus=corpus, length=length, batch_size=TOKENS_A_BATCH // length)
            for kind in ("rows", "order", "next"):
                pipeline = Pipeline(data, transforms=[] if kind == "rows" else [SentencePairs(kind)])
                speeds = measure(pipeline)
                median, best = statistics.median(speeds), floor(pipeline) if kind == "rows" else None
                goal = median / GOAL if kind == "rows" else None
                rows.append([length, kind, median, min(speeds), best, goal, f"{median * 1e6 / length:,.0f}"])
    print(table(["length", "kind", "M tokens/s", "worst", "NumPy alone", "of the goal", "rows/s"], rows))


if __name__ == "__main__":
    main()
