"""What share of a step does the loop wait for its input? BERT-base at 128 tokens a row, trained as
`experiments.pretrain` trains, from a prepared corpus.

    python -m benchmarks.gpu.input_wait FOLDER [--tiny]

The corpus, the source code of Python's standard library, is prepared in FOLDER unless it stands there already.
"""

import argparse
import dataclasses
import json
import statistics
from pathlib import Path

import chz

from benchmarks.gpu.ours import experiment
from benchmarks.gpu.work import WORK


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiny", action="store_true")
    asked = parser.parse_args()
    from experiments.cli import set_up_jax

    set_up_jax()

    from ptjax.data.prepare import Corpus, prepare
    from ptjax.data.sources import Stdlib
    from ptjax.data.tokenizers import SentencePiece
    from ptjax.logging import Logging
    from ptjax.train import Checkpointing, Evaluation, Run, train

    work = WORK["bert-base-128"]
    if asked.tiny:
        work = dataclasses.replace(work.tiny(), length=64)
    corpus = Corpus(path=str(asked.folder / "corpus"), source=Stdlib(), tokenizer=SentencePiece(vocab_size=8000))
    prepare(corpus)
    base = experiment(work, dropout=0.0)
    trained = chz.replace(
        base,
        data=chz.replace(base.data, corpus=corpus, length=work.length, batch_size=work.batch),
        steps=12 if asked.tiny else 120,
        checkpoint=Checkpointing(minutes=None, best=None),
        evaluation=Evaluation(batches=1),
        logging=Logging(every=1, progress=False),
    )
    workdir = asked.folder / "input_wait"
    train(Run.open(trained), workdir)
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    timed = [line for line in lines if line["kind"] == "train" and "seconds/step" in line]
    late = timed[len(timed) // 2 :]
    share = sum(line["seconds/input"] for line in late) / sum(line["seconds/step"] for line in late)
    step = statistics.median(line["seconds/step"] for line in late)
    print(f"input wait: {100 * share:.2f} % of a step of {1e3 * step:.1f} ms, over {len(late)} steps", flush=True)


if __name__ == "__main__":
    main()
