"""How fast is `prepare`, against SentencePiece's own encoding speed times the cores? Goal: 0.8.

    python -m benchmarks.prepare ['texts/*.txt'] [unigram|bpe]

Without arguments, on the standard library. Both are measured in turns, after the tokenizer is trained: `prepare` reads,
hashes, encodes, writes and commits; SentencePiece encodes the same text from memory, in pieces of 16,384 characters
(the size at which it is fastest). On all cores at once is the fairer floor where others use the machine.
"""

import functools
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import sentencepiece

from benchmarks.machine import cores as usable_cores
from benchmarks.machine import heading, table
from ptjax.data.manifest import Manifest
from ptjax.data.prepare import Corpus, prepare
from ptjax.data.sources import Stdlib, TextFiles
from ptjax.data.tokenizers import SentencePiece
from ptjax.data.tokenizers.sentencepiece import MODEL

REPEATS, PIECE = 7, 16_384


def seconds(function: Callable) -> tuple[float, float]:
    """Wall and processor time of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


def forget_all_but_the_tokenizer(folder: Path) -> None:
    manifest = Manifest.load(folder)
    manifest.files = {MODEL: manifest.files[MODEL]}
    manifest.progress, manifest.complete = {}, False
    for path in folder.iterdir():
        if path.name != MODEL:
            path.unlink()
    manifest.commit(folder)


def main() -> None:
    cores = usable_cores()
    source = TextFiles(glob=sys.argv[1]) if sys.argv[1:] else Stdlib()
    tokenizer = SentencePiece(model=sys.argv[2] if sys.argv[2:] else "unigram")
    folder = Path(tempfile.mkdtemp())
    corpus = Corpus(path=str(folder), source=source, tokenizer=tokenizer)
    try:
        report = prepare(corpus)
        processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / MODEL))
        texts = [document.text for document in source.read()]
        pieces = [text[start : start + PIECE] for text in texts for start in range(0, len(text), PIECE)]
        encode = functools.partial(processor.encode, pieces, return_type="numpy")
        ours, one, all_cores = [], [], []
        for _ in range(REPEATS):
            forget_all_but_the_tokenizer(folder)
            ours.append(seconds(lambda: prepare(corpus)))
            one.append(seconds(lambda: encode(num_threads=1)))
            all_cores.append(seconds(lambda: encode(num_threads=cores)))
    finally:
        shutil.rmtree(folder)
    wall, cpu = (np.array([ours, one, all_cores])[..., i] for i in (0, 1))
    speeds = report.encoded_bytes / 1e6 / np.median(wall, axis=1)
    print(
        f"{heading('sentencepiece')}; {tokenizer.model}, {report.encoded_bytes / 1e6:.1f} MB of text, tokenizer "
        f"trained in {report.seconds['tokenizer']:.1f} s\n"
    )
    against = lambda them, times: float(np.median(times[them] / times[0]))
    rows = [
        ["prepare", speeds[0], None, None],
        [f"SentencePiece on one core, times {cores}", speeds[1] * cores, against(1, wall) / cores, against(1, cpu)],
        [f"SentencePiece on {cores} cores at once", speeds[2], against(2, wall), against(2, cpu)],
    ]
    print(table(["", "MB/s", "prepare is at", "in processor time"], rows))


if __name__ == "__main__":
    main()
