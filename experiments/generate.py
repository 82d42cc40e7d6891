"""Fill masks or continue text with a checkpoint; a text with a mask in it is filled.

python -m experiments.generate --workdir=runs/mlm_stdlib --text='import <mask>' --text='for i in <mask>(10):'
python -m experiments.generate --workdir=runs/causal --text='def main(' --samples=3 --temperature=0.8 --top-p=0.95
"""

import sys

from rich.text import Text

from ptjax.config import UserError
from ptjax.generate import MASK, Predictor, Sampling
from ptjax.train import Experiment, Run

from . import cli, show

FLAGS = {
    "--text": dict(
        action="append",
        metavar="TEXT",
        help=f"a prompt, or a text with {MASK} in it; may be repeated; '-' reads one a line from standard input",
    ),
    "--step": dict(type=int, help="of the checkpoint (default: the last good one)"),
    "--top": dict(type=int, default=5, help="guesses shown for each mask (default 5)"),
    "--samples": dict(type=int, default=1, help="continuations of each prompt (default 1)"),
    "--tokens": dict(type=int, help="length of a continuation (default 64, or what fits in a row of training)"),
    "--temperature": dict(type=float, default=1.0, help="0 takes the likeliest token (default 1)"),
    "--top-k": dict(type=int, help="draw from the k likeliest tokens only"),
    "--top-p": dict(type=float, help="draw from the likeliest tokens that hold this share of probability"),
    "--seed": dict(type=int, default=0, help="of the draws (default 0)"),
}


def main(command: cli.Command) -> None:
    flags = command.flags
    texts = [line for text in flags.text or [] for line in (sys.stdin.read().splitlines() if text == "-" else [text])]
    if not texts:
        raise UserError(f"Say what to start from: --text='...' (with {MASK} in it for a masked language model).")
    if min(flags.top, flags.samples) < 1:
        raise UserError("--top and --samples are numbers of answers: at least 1")
    run = Run.open(command.config)
    predictor = Predictor.of_workdir(run, command.workdir, flags.step)
    able = run.experiment.objective.abilities()
    if "fill" in able and "sample" not in able or any(MASK in text for text in texts):
        predictor.require("fill")
        rows = [predictor.encode_masked(text) for text in texts]
        for text, found in zip(texts, predictor.fill(rows, flags.top)):
            show.fills(text, found)
        return
    predictor.require("sample")
    texts = [text for text in texts for _ in range(flags.samples)]
    prompts = [predictor.tokenizer.encode(text) for text in texts]
    sampling = Sampling(flags.tokens, flags.temperature, flags.top_k, flags.top_p, flags.seed)
    for text, ids in zip(texts, predictor.sample(prompts, sampling)):
        show.console.print(
            Text(text, style="bold").append(predictor.tokenizer.decode_inside(ids), style="not bold green")
        )
        show.console.print(Text("---", style="dim"))


if __name__ == "__main__":
    cli.run(main, base=Experiment, flags=FLAGS, doc=__doc__)
