"""What every experiment main shares: its command line, process-wide settings, errors and exit codes.

A main is a module of this package. Its docstring is its help text; its first line appears in `ptjax --help`:

    \"\"\"Pre-train a model.

        python -m experiments.pretrain --config=configs/mlm_stdlib.py --workdir=runs/mlm optimizer.peak_lr=6e-4
    \"\"\"

    from ptjax.config import describe
    from ptjax.train import Experiment

    from . import cli                        # relative: installed, this package is ptjax.experiments

    FLAGS = {"--dry-run": dict(action="store_true", help="print sizes and stop")}     # argparse's words

    def main(command: cli.Command) -> None:  # command.config, .workdir, .flags.dry_run
        print(describe(command.config))
        ...

    if __name__ == "__main__":
        cli.run(main, base=Experiment, flags=FLAGS, doc=__doc__)

Without `--config` the config is the `config.json` of the workdir, where there is one; overrides apply to either.
Exit codes: 0 done, 1 an error of ours (with a traceback), 2 a mistake that the user can mend, 128 + its number for a
signal (130 Ctrl-C, 143 SIGTERM).
PTJAX_DEBUG=1 shows tracebacks of all.
"""

import argparse
import ctypes
import dataclasses
import difflib
import errno
import glob
import logging
import os
import platform
import signal
import sys
import textwrap
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from ptjax.config import Config, UserError, from_json, help_text, load, override


@dataclasses.dataclass(frozen=True)
class Command:
    """What the user asked for: the config with overrides applied, the workdir, and the main's own flags."""

    config: Config | None
    workdir: Path | None
    flags: argparse.Namespace


def run(
    main: Callable[[Command], None],
    *,
    doc: str,
    base: type[Config] | None = Config,
    flags: Mapping[str, Mapping[str, Any]] = {},
    workdir: bool = True,
    uses_jax: bool = True,
) -> NoReturn:
    """Parses `sys.argv`, sets the process up, calls `main`, and exits with the code that tells the truth.

    Args:
        main: the experiment.
        doc: its help text: one line, then an example.
        base: the class of config that it takes; None: it takes none.
        flags: its own flags, name to arguments of `argparse.ArgumentParser.add_argument`.
        workdir: whether it cannot do without --workdir.
        uses_jax: False spares a main that never computes on a device the settings made for jax.
    """
    code = 0
    try:
        if uses_jax and "--help" not in sys.argv:
            set_up_jax(distributed="--distributed" in sys.argv)
        main(parse(sys.argv[1:], doc=doc, base=base, flags=flags, workdir=workdir))
    except KeyboardInterrupt as interrupt:  # a training run's says which signal, and what it saved
        print(file=sys.stderr)  # the terminal has echoed ^C
        code = _fail(str(interrupt) or "Interrupted.", 128 + getattr(interrupt, "signum", signal.SIGINT))
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except Exception as error:
        message = _message(error)
        if message is None:
            traceback.print_exc()
        code = 1 if message is None else _fail(f"Error: {message}", 2)
    sys.exit(code)


def parse(
    argv: list[str],
    *,
    doc: str,
    base: type[Config] | None = Config,
    flags: Mapping[str, Mapping[str, Any]] = {},
    workdir: bool = True,
) -> Command:
    """The command that `argv` spells. Prints help and exits where --help is asked for; raises UserError otherwise."""
    parser = _Parser(prog=_program(), usage=argparse.SUPPRESS, add_help=False, allow_abbrev=False)
    if base:
        about = "config file, FILE[:arg=value,...] (default: the workdir's)"
        parser.add_argument("--config", metavar="FILE", help=about)
    parser.add_argument("--workdir", metavar="DIR", type=Path, help="folder of the run" + " (optional)" * (not workdir))
    for name, arguments in flags.items():
        parser.add_argument(name, **arguments)
    parser.add_argument("--distributed", action="store_true", help="join the cluster that jax finds around it")
    about = "show this; with --config also every key of the config" if base else "show this"
    parser.add_argument("--help", action="store_true", help=about)
    for action in parser._actions:
        action.required &= "--help" not in argv
    known, rest = parser.parse_known_args(argv)
    _refuse_unknown_flags(rest, [name for action in parser._actions for name in action.option_strings])
    if known.help:
        print(_help(parser, doc, known, rest, base))
        sys.exit(0)
    if workdir and known.workdir is None:
        raise UserError("Say which folder this run lives in: --workdir=DIR.")
    if base is None and rest:
        raise UserError(f"Cannot read {rest[0]!r}: there is no config here to set keys of. See --help.")
    return Command(_config(known, rest, base) if base else None, known.workdir, known)


def set_up_jax(distributed: bool = False) -> None:
    """Process-wide settings, made before jax allocates anything: memory, logs, compilation cache, cluster."""
    distributed = distributed or "JAX_COORDINATOR_ADDRESS" in os.environ
    several = distributed or "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    keep_freed_memory(one_heap=several)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.getLogger("absl").setLevel(logging.ERROR)
    if not glob.glob("/dev/accel*") and not glob.glob("/dev/vfio/[0-9]*"):
        # Installed to plan, libtpu looks for the TPU machine that it is on at every start, and logs that there is none.
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-1")

    import jax  # here, so that --help and the settings above come first

    # On CPU a step of one device then runs in the thread that asks for it, in the heap that `keep_freed_memory` keeps.
    # And a step that begins while the one before runs would need its memory twice.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    folder = os.environ.get("PTJAX_COMPILATION_CACHE", "")
    if folder != "off" and not jax.config.jax_compilation_cache_dir:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", folder or str(caches / "ptjax" / "xla"))
        if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
            # jax keeps only what took a second: a start has dozens of smaller programs, and they add up to more.
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if distributed:
        count, index = os.environ.get("JAX_NUM_PROCESSES"), os.environ.get("JAX_PROCESS_ID")  # jax itself ignores these
        jax.distributed.initialize(num_processes=count and int(count), process_id=index and int(index))


def keep_freed_memory(one_heap: bool = False) -> None:
    """Tells glibc to reuse freed memory rather than give it back: 1.8 times the speed of a training step on CPU.

    XLA allocates its outputs anew each step, and pages that went back to the system are faulted in again.

    one_heap: for all threads. glibc gives each thread but the first a heap of its own, which cannot hold large arrays:
    this is for several devices, whose steps run in threads. The compiler's threads then wait for each other at it, and
    a start takes half as long again.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, top_pad, mmap_max, arena_max = -1, -2, -4, -8  # names of the parameters in malloc.h
    mallopt = ctypes.CDLL(None).mallopt
    for parameter, value in ((mmap_max, 0), (trim_threshold, -1), (top_pad, 256 << 20)):
        mallopt(parameter, value)
    if one_heap:
        mallopt(arena_max, 1)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}. See --help.")


def _program() -> str:
    spec = sys.modules["__main__"].__spec__
    name = spec.name if spec else "experiments"
    return f"ptjax {name.rpartition('.')[2]}" if name.startswith("ptjax.") else f"python -m {name}"


def _config(known: argparse.Namespace, overrides: list[str], base: type[Config]) -> Config:
    if known.config:
        return load(known.config, overrides, base)
    kept = known.workdir / "config.json" if known.workdir else None
    if kept is None or not kept.is_file():
        there = [str(path.parent) for path in known.workdir.parent.glob("*/config.json")] if kept else []
        near = difflib.get_close_matches(str(known.workdir), there, 1)
        hint = f"; did you mean --workdir={near[0]}?" if near else ""
        raise UserError(
            "Say which config to use: --config=FILE" + (f" ({kept} does not exist{hint})." if kept else ".")
        )
    from ptjax.checkpoint import read_config  # here: it imports jax, for which `set_up_jax` is

    return override(from_json(read_config(known.workdir), base), overrides)


def _refuse_unknown_flags(rest: list[str], known: list[str]) -> None:
    for argument in rest:
        if argument.startswith("-"):
            name = argument.partition("=")[0]
            bare = name.lstrip("-")
            near = difflib.get_close_matches(bare, [flag.lstrip("-") for flag in known], 1)
            key = bare.replace("-", "_")
            hint = f"did you mean --{near[0]}?" if near else f"a key of the config goes without dashes: {key}=..."
            raise UserError(f"There is no flag {name}; {hint} Flags: {', '.join(known)}.")


def _help(parser: _Parser, doc: str, known: argparse.Namespace, overrides: list[str], base: type[Config] | None) -> str:
    if parser.prog.startswith("ptjax "):
        doc = doc.replace("python -m experiments.", "ptjax ")
    usage = "--config=FILE[:arg=value,...] --workdir=DIR [flags] [key.path=value ...]" if base else "[flags]"
    parts = [f"usage: {parser.prog} {usage}", textwrap.dedent(doc).strip(), parser.format_help().strip()]
    if base is None:
        return "\n\n".join(parts)
    if known.config:
        config = _config(known, overrides, base)
        parts += [f"keys of {known.config} (type, value, meaning):\n\n" + help_text(config)]
    else:
        parts += ["--help --config=FILE lists the keys to set; naming a class (objective=CausalLM) resets its fields."]
    return "\n\n".join(parts)


def _message(error: BaseException) -> str | None:
    """What to tell the user about an error that they can mend; None for any other."""
    if isinstance(error, UserError):
        return str(error)
    chain, cause = [], error
    while cause is not None:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    for one in chain:
        text, number = str(one), getattr(one, "errno", None)
        if number in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in text:
            return f"There is no space left on the disk ({text}). What was saved is whole: free some, run again."
        if number in (errno.EACCES, errno.EPERM, errno.EROFS) or "Permission denied" in text:
            return f"No permission ({text}). Choose another folder, or change its owner."
    return None


def _fail(message: str, code: int) -> int:
    if os.environ.get("PTJAX_DEBUG", "0") not in ("", "0"):
        traceback.print_exc()
    print(message, file=sys.stderr)
    return code
