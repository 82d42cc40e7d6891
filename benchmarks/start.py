"""How long from the command to the first step? `experiments.pretrain` as users type it, beside Hugging Face's BERT.

    python -m benchmarks.start [--size=mini] [--repeats=3] [--peer=PYTHON]

A first start has an empty compilation cache, a second start what a first has left in it; the workdir is new each time
and the corpus prepared. The first step is done when its metrics are on the host: the `time` of its line in
metrics.jsonl. --peer is a Python with torch and transformers, for benchmarks/peers/start.py: the same sizes, dropout
and optimizer, eager and with torch.compile, its caches empty and full. Goals: not above the peer as it compiles, and a
second start under half of a first. Where the time goes is measured in one more process of each kind. The floor is what
no program that uses jax can leave out: Python, importing jax, and compiling the step or reading it.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.machine import heading, spread, table
from ptjax.data.prepare import Corpus, prepare
from ptjax.data.sources import Stdlib
from ptjax.data.tokenizers import SentencePiece
from ptjax.models.bert import SIZES

ROOT = Path(__file__).parents[1]
LENGTH, ROWS, VOCABULARY = 128, 16, 4096
LONGEST = 300  # seconds that a start may take
FLOOR = ("start of Python", "import jax", "compiling, or reading it")


@contextlib.contextmanager
def running(argv: list[str], **environment: str) -> Iterator[tuple[subprocess.Popen, float]]:
    """A process and the time when it began; ended with the block."""
    begin = time.time()
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process = subprocess.Popen(argv, cwd=ROOT, env=os.environ | environment, **pipes)
    try:
        yield process, begin
    finally:
        process.kill()
        process.communicate()


class Starts:
    """Starts of one model. Everything is written below `folder`."""

    def __init__(self, folder: Path, size: str):
        self.folder, self.sizes = folder, SIZES[size]
        source, tokenizer = Stdlib(), SentencePiece(model="bpe", vocab_size=VOCABULARY)
        prepare(Corpus(path=str(folder / "corpus"), source=source, tokenizer=tokenizer))

    def arguments(self, workdir: str) -> list[str]:
        model = self.sizes | dict(max_length=LENGTH, dropout=0.1, attention_dropout=0.1)
        return [
            *(
                f"--config=configs/mlm_stdlib.py:corpus={self.folder / 'corpus'},length={LENGTH}",
                f"--workdir={workdir}",
            ),
            *("data.corpus.tokenizer.model=bpe", f"data.batch_size={ROWS}", "optimizer=AdamW"),
            *("logging.every=1", "logging.progress=False", *(f"model.{key}={value}" for key, value in model.items())),
        ]

    def ours(self, cache: str) -> float:
        """Seconds to the first step."""
        workdir = tempfile.mkdtemp(dir=self.folder)
        argv = [sys.executable, "-m", "experiments.pretrain", *self.arguments(workdir)]
        with running(argv, PTJAX_COMPILATION_CACHE=cache) as (process, begin):
            while time.time() < begin + LONGEST and process.poll() is None:
                with contextlib.suppress(OSError, IndexError, ValueError):  # no file, no line, half a line
                    return json.loads((Path(workdir) / "metrics.jsonl").read_text().splitlines()[0])["time"] - begin
                time.sleep(0.02)
            raise RuntimeError("no first step" if process.poll() is None else process.communicate()[1])

    def parts(self, cache: str) -> dict[str, float]:
        """Part of the start -> seconds."""
        workdir = tempfile.mkdtemp(dir=self.folder)
        argv = [sys.executable, "-m", "benchmarks.start_parts", str(time.time()), *self.arguments(workdir)]
        with running(argv, PTJAX_COMPILATION_CACHE=cache) as (process, _):
            output, errors = process.communicate(timeout=LONGEST)
        found = [line.removeprefix("PARTS ") for line in output.splitlines() if line.startswith("PARTS ")]
        if not found:
            raise RuntimeError(errors)
        return json.loads(found[0])

    def peer(self, python: str, mode: str, cache: str) -> float:
        """Seconds to its first step."""
        sizes = [self.sizes[key] for key in ("layers", "width", "heads", "hidden")]
        argv = [python, "benchmarks/peers/start.py", mode, *map(str, [*sizes, VOCABULARY, ROWS, LENGTH])]
        with running(argv, TORCHINDUCTOR_CACHE_DIR=cache) as (process, begin):
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(process.communicate()[1])
            return float(line) - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="mini", choices=SIZES)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer", metavar="PYTHON", help="a Python with torch and transformers")
    options = parser.parse_args()
    first, second = "first start", "second start"
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        starts = Starts(folder, options.size)
        for repeat in range(options.repeats):  # in turns: the machine may be faster now and slower then
            for kind in (first, second):
                times.setdefault(kind, []).append(starts.ours(str(folder / f"xla{repeat}")))
            for mode in ("eager", "compile") if options.peer else ():
                for kind in (first, second):
                    seconds = starts.peer(options.peer, mode, str(folder / f"inductor{repeat}"))
                    times.setdefault(f"Hugging Face, torch {mode}, {kind}", []).append(seconds)
        parts = [starts.parts(str(folder / "xla-parts")) for _ in (first, second)]
    print(
        f"{heading('jax', 'flax')}; BERT-{options.size}, {ROWS} x {LENGTH} tokens, {options.repeats} starts of each\n"
    )
    base = statistics.median(times[first])
    rows = [
        [f"ptjax, {kind}" if kind in (first, second) else kind, spread(of), statistics.median(of) / base]
        for kind, of in times.items()
    ]
    print(table(["seconds to the first step", "median (least-most)", "of ptjax's first start"], rows) + "\n")
    names = dict.fromkeys(name for part in parts for name in part)
    rows = [[name, *(part.get(name, 0.0) for part in parts)] for name in names]
    rows += [["in all", *(sum(part.values()) for part in parts)]]
    rows += [[f"floor: {', '.join(FLOOR)}", *(sum(part.get(name, 0.0) for name in FLOOR) for part in parts)]]
    print(table(["seconds of", first, second], rows))


if __name__ == "__main__":
    main()
