"""What a training step would cost on chips that are not here: memory, FLOPs, traffic, and time at best.

python -m experiments.plan --config=configs/bert_mlm.py:size=large --topology=v5e:4x4 model.dtype=bfloat16
python -m experiments.plan --config=configs/mlm_stdlib.py --json=plan.json

It compiles the real step ahead of time; nothing is trained, and no text need be prepared. Without --topology it plans
for the devices that are here. Exit code 2 where the step does not fit; what would is said.
"""

import json
from pathlib import Path

import jax

from ptjax.config import UserError
from ptjax.plan import plan
from ptjax.train import Experiment

from . import cli, show_plan

FLAGS = {
    "--topology": dict(metavar="CHIP:SHAPE", help="a slice of TPUs, as v5e:4x4 or v5p:8x16x16 (v4, v5e, v5p, v6e)"),
    "--json": dict(metavar="FILE", help="writes the plan there for machines; --json=- to standard output, alone"),
}


def main(command: cli.Command) -> None:
    if command.flags.topology:
        jax.config.update("jax_platforms", "cpu")  # the compiler needs no chip, nor should it take those that are here
    made, file = plan(command.config, command.flags.topology), command.flags.json
    text = json.dumps(made.as_json(), indent=2)
    if file == "-":
        print(text)
    else:
        show_plan.show(made)
        if file:
            Path(file).write_text(text + "\n", encoding="utf-8")
    if not made.fits:
        raise UserError(show_plan.too_large(made))


if __name__ == "__main__":
    cli.run(main, base=Experiment, flags=FLAGS, doc=__doc__, workdir=False)
