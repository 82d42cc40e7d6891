"""How fast is `prepare`, against SentencePiece's own encoding speed times the cores? Goal: 0.8.

    python -m benchmarks.prepare ['texts/*.txt'] [unigram|bpe]

Without arguments, on the standard library. Both are measured in turns, after the tokenizer is trained: `prepare` reads,
hashes, encodes, writes and commits; SentencePiece encodes the same text from memory, in pieces of 16,384 characters
(the size at which it is fastest), on one thread.
"""

import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import sentencepiece

from benchmarks.input import machine
from ptjax.data.manifest import Manifest
from ptjax.data.prepare import TOKENIZER, Corpus, prepare
from ptjax.data.sources import Stdlib, TextFiles
from ptjax.data.tokenizers import SentencePiece

REPEATS, PIECE = 7, 16_384


def seconds(function: Callable) -> tuple[float, float]:
    """Wall and processor time of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


def forget_all_but_the_tokenizer(folder: Path) -> None:
    manifest = Manifest.load(folder)
    manifest.files = {TOKENIZER: manifest.files[TOKENIZER]}
    manifest.progress, manifest.complete = {}, False
    for path in folder.iterdir():
        if path.name != TOKENIZER:
            path.unlink()
    manifest.commit(folder)


def main() -> None:
    cores = len(os.sched_getaffinity(0))
    source = TextFiles(glob=sys.argv[1]) if sys.argv[1:] else Stdlib()
    tokenizer = SentencePiece(model=sys.argv[2] if sys.argv[2:] else "unigram")
    folder = Path(tempfile.mkdtemp())
    corpus = Corpus(path=str(folder), source=source, tokenizer=tokenizer)
    try:
        report = prepare(corpus)
        print(f"{machine()}, {cores} cores; sentencepiece {version('sentencepiece')}, {tokenizer.model}; "
              f"{report.encoded_bytes / 1e6:.1f} MB of text, tokenizer trained in {report.seconds['tokenizer']:.1f} s")
        processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / TOKENIZER))
        texts = [document.text for document in source.read()]
        pieces = [text[start:start + PIECE] for text in texts for start in range(0, len(text), PIECE)]
        ours, theirs = [], []
        for _ in range(REPEATS):
            forget_all_but_the_tokenizer(folder)
            ours.append(seconds(lambda: prepare(corpus)))
            theirs.append(seconds(lambda: processor.encode(pieces, return_type="numpy", num_threads=1)))
    finally:
        shutil.rmtree(folder)
    megabytes = report.encoded_bytes / 1e6
    speed, peer = (megabytes / statistics.median(wall for wall, _ in times) for times in (ours, theirs))
    wall = statistics.median(b[0] / a[0] / cores for a, b in zip(ours, theirs))
    cpu = statistics.median(b[1] / a[1] for a, b in zip(ours, theirs))
    print(f"prepare {speed:.1f} MB/s, SentencePiece {peer:.1f} MB/s a core: {wall:.2f} of SentencePiece times {cores} "
          f"cores (median of {REPEATS}); on a machine that others use look at processor time: {cpu:.2f}")


if __name__ == "__main__":
    main()
