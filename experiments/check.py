"""Hold an objective and a body, your own too, against the laws that all obey: in about a minute, without data.

python -m experiments.check --config=configs/mlm_stdlib.py objective=my_objective:Repair
"""

import os
import sys
import time

import jax
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ptjax.check import LAWS, Result, check
from ptjax.config import UserError
from ptjax.train import Experiment

from . import cli, show

FLAGS = {
    "--full": dict(action="store_true", help="leave the body its size (default: 2 layers of width 32)"),
    "--laws": dict(metavar="LAW,...", help=f"only these of {', '.join(LAWS)}"),
}


def main(command: cli.Command) -> None:
    set_up_devices()
    laws = LAWS
    if command.flags.laws:
        names = command.flags.laws.split(",")
        if unknown := [name for name in names if name not in LAWS]:
            raise UserError(f"--laws: there is no law {unknown[0]!r}, only {', '.join(LAWS)}")
        laws = {name: law for name, law in LAWS.items() if name in names}
    experiment: Experiment = command.config
    title = f"{type(experiment.objective).__name__} on {type(experiment.model).__name__}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in ("law", "", "measured", "limit", "s"):
        table.add_column(name, justify="right" if name in ("measured", "limit", "s") else "left", no_wrap=True)
    table.add_column("of what")
    results, start = [], time.monotonic()
    with Live(table, console=show.console, auto_refresh=False, transient=True) as live:
        for result in check(experiment, laws, command.flags.full):
            results.append(result)
            table.add_row(*_cells(result, time.monotonic() - start))
            live.refresh()
            start = time.monotonic()
    show.console.print(table)
    broken = [result.law for result in results if result.passed is False]
    if broken:
        show.console.print(
            f"\n[bold red]broken: {', '.join(broken)}[/]. docs/add-an-objective.md says what each law wants."
        )
        sys.exit(1)


def _cells(result: Result, seconds: float) -> list[Text]:
    verdict = {True: ("pass", "green"), False: ("FAILED", "bold red"), None: ("skipped", "dim")}[result.passed]
    number, limit = ("" if x is None else f"{x:.3g}" for x in (result.number, result.limit))
    sign = "" if result.limit is None else ">= " if result.floor else "<= "
    words = (number, sign + limit, f"{seconds:.1f}", result.note)
    return [Text(result.law), Text(*verdict), *map(Text, words)]


def set_up_devices() -> None:
    """Eight devices of one CPU, before jax opens any; and little optimisation, since compiling is what takes time."""
    flags = (
        "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
        "--xla_llvm_disable_expensive_passes=true --xla_cpu_parallel_codegen_split_count=1"
    )
    if jax.__version__.startswith("0.10."):  # later ones have no other emitters, and XLA aborts on flags unknown to it
        flags += " --xla_cpu_use_fusion_emitters=false"
    os.environ["XLA_FLAGS"] = f"{flags} {os.environ.get('XLA_FLAGS', '')}"
    # XLA's thread pool is as large as the machine: on few cores, devices that wait for each other could fill it.
    os.environ.setdefault("NPROC", "16")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


if __name__ == "__main__":
    cli.run(main, base=Experiment, flags=FLAGS, doc=__doc__, workdir=False)
