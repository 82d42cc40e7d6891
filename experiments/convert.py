"""Make a run of a published model, or a published model of a run: Hugging Face's folders in and out.

python -m experiments.convert --from=FOLDER --workdir=runs/minilm
python -m experiments.convert --from=runs/minilm --to=FOLDER --dtype=bfloat16
"""

from pathlib import Path

import jax

from ptjax.config import UserError
from ptjax.interop.export import export_workdir
from ptjax.interop.tensors import CODES
from ptjax.interop.workdir import import_workdir

from . import cli, show

FLAGS = {
    "--from": dict(dest="source", metavar="DIR", required=True, help="a folder of Hugging Face's, or a run's workdir"),
    "--to": dict(metavar="DIR", help="the folder to write a run into: new, or written by this command before"),
    "--only": dict(metavar="PARTS", help="parts to take, as body or body,head (default: all)"),
    "--step": dict(type=int, help="of the checkpoint to write (default: the last good one)"),
    "--dtype": dict(choices=list(CODES), help="to write tensors in (default float32)"),
    "--added": dict(action="store_true", help="write the ids, too, that the published vocabulary lacks"),
}


def main(command: cli.Command) -> None:
    flags = command.flags
    only = flags.only.split(",") if flags.only else None
    if jax.process_count() > 1:
        raise UserError("convert is the work of one process: run it on one machine, without --distributed.")
    if (flags.to is None) == (command.workdir is None):
        raise UserError("Say where to: --workdir=DIR makes a run of a published model, --to=DIR the reverse.")
    if flags.to:
        export(flags, only)
    elif flags.dtype or flags.step is not None or flags.added:
        raise UserError("--dtype, --step and --added say how to write a published model: they go with --to=DIR.")
    else:
        take(flags.source, command.workdir, only)


def take(source: str, workdir: Path, only: list[str] | None) -> None:
    found = import_workdir(source, workdir, only=only)
    new = found.vocab_size - found.rows
    show.facts(
        family=found.family.model_type,
        architecture=found.architecture,
        parameters=f"{found.parameters:,} in {len(found.tensors)} tensors",
        parts=", ".join(sorted(found.parts)),
        vocabulary=f"{found.rows:,}" + (f" and {new} new, the mean of theirs" if new else ""),
        left_out=", ".join(found.left_out),
        model=type(found.config).__name__,
        objective=type(found.objective).__name__,
        workdir=str(workdir),
    )


def export(flags, only: list[str] | None) -> None:
    dtype = flags.dtype or "float32"
    done = export_workdir(flags.source, flags.to, step=flags.step, dtype=dtype, only=only, added=flags.added)
    written, lost = done.written, done.ids - done.rows
    show.facts(
        family=written.family,
        architecture=written.architecture,
        parameters=f"{written.parameters:,} in {written.tensors} tensors of {dtype}, {written.bytes / 2**20:.1f} MiB",
        step=str(done.step),
        parts=", ".join(sorted(written.parts)),
        new=", ".join(sorted(written.new)) + " (drawn by transformers)" * bool(written.new),
        left_out=", ".join([*sorted(written.left_out), *[f"{lost} ids of the vocabulary (see --added)"] * (lost > 0)]),
        files=", ".join(done.files),
        folder=str(flags.to),
    )
    if done.note:
        print(f"note: {done.note}")


if __name__ == "__main__":
    cli.run(main, base=None, flags=FLAGS, doc=__doc__, workdir=False)
