"""How long does a training step take, beside other frameworks on the same work? One interleaved run an item.

    python -m benchmarks.step --items a d --peers hf hf+malloc nanogpt --out runs/step

Everyone trains in float32 on the same random ids by AdamW, without clipping, and a step ends when the loss is a number
in Python. Items are named sizes of BERT and GPT (`benchmarks/peers/items.py`); d:length=1024,batch=4 changes one.
Peers are programs of `benchmarks/peers/`, each in an environment of its own, whose interpreter a variable names; one
whose variable is not set is left out. NAME+malloc gives a peer the memory settings that ptjax makes for itself, and
NAME+mkl tells the MKL in torch that an AMD processor is an Intel one, without which its products run at half speed
there (no user does that; it needs a C compiler).

    TORCH_PY      hf (transformers, compiled), hf-eager, nanogpt, nanogpt-own (its own AdamW), matmul-torch
    NANOGPT_DIR   nanogpt: a checkout of karpathy/nanoGPT
    LEVANTER_PY   levanter            MAXTEXT_PY   maxtext
    LM1B_DIR      lm1b: examples/lm1b of a checkout of google/flax
    JAX_PY        lm1b, matmul, linen (plain Flax, without care); this interpreter where it is not set

`matmul` and `matmul-torch` do the floating-point operations that a step needs in products of matrices and nothing else,
by XLA and by torch: the faster one is the floor.

To try a change of ptjax, measure it against another tree, or against overrides of the experiment:

    python -m benchmarks.step --items d --peers --against ../before --variants model.remat=dots
"""

import argparse
import dataclasses
import functools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.interleave import Timing, Worker, interleave
from benchmarks.machine import heading, table
from benchmarks.peers.items import Item

ROOT = Path(__file__).parents[1]
# As `experiments.cli.keep_freed_memory`, in glibc's words for the environment.
MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": str(256 << 20),
    "MALLOC_ARENA_MAX": "1",
}
INTEL = "int mkl_serv_intel_cpu_true(void) { return 1; }"


@dataclasses.dataclass(frozen=True)
class Peer:
    """module: of `benchmarks.peers`. python: the variable that names its interpreter. needs: variables besides."""

    module: str
    python: str
    options: str = ""
    kinds: tuple[str, ...] = ("mlm", "causal")
    needs: tuple[str, ...] = ()


PEERS = {
    "hf": Peer("hf", "TORCH_PY", "compile,fused"),
    "hf-eager": Peer("hf", "TORCH_PY", "fused"),
    "nanogpt": Peer("nanogpt", "TORCH_PY", "compile,fused", ("causal",), ("NANOGPT_DIR",)),
    "nanogpt-own": Peer("nanogpt", "TORCH_PY", "compile", ("causal",), ("NANOGPT_DIR",)),
    "levanter": Peer("levanter", "LEVANTER_PY", kinds=("causal",)),
    "maxtext": Peer("maxtext", "MAXTEXT_PY", kinds=("causal",)),
    "lm1b": Peer("lm1b", "JAX_PY", kinds=("causal",), needs=("LM1B_DIR",)),
    "linen": Peer("linen", "JAX_PY"),
    "matmul": Peer("matmul", "JAX_PY", "jax"),
    "matmul-torch": Peer("matmul", "TORCH_PY", "torch"),
}
FLOORS = ("matmul", "matmul-torch")


def main() -> None:
    asked = _arguments()
    out = asked.out and Path(asked.out)
    if out:
        out.mkdir(parents=True, exist_ok=True)
    head = f"{heading('jax', 'flax', 'optax')}; ptjax {_commit(ROOT)}"
    print(head, flush=True)
    for text in asked.items:
        item = Item.parse(text)
        workers = _ours(text, asked) + [w for name in asked.peers if (w := _peer(name, text, item, asked))]
        timings = interleave(workers, asked.rounds, asked.seconds, free_bytes=asked.free * 2**30, say=_tell)
        shown = f"{text}: {item}; dropout {asked.dropout:g}\n\n{markdown(item, timings)}\n"
        print(f"\n{shown}", flush=True)
        if out:
            name = re.sub(r"[^\w.-]+", "_", f"{text}-{asked.dropout:g}")
            facts = dict(head=head, item=text, sizes=dataclasses.asdict(item), dropout=asked.dropout)
            facts["workers"] = [dataclasses.asdict(timing) for timing in timings]
            (out / f"{name}.json").write_text(json.dumps(facts, indent=1))
            (out / f"{name}.md").write_text(f"{head}\n\n{shown}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.step", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", nargs="+", default=["a", "b", "c", "d"], metavar="ITEM", help="default: a b c d")
    parser.add_argument("--dropout", type=float, default=0.1, help="of embeddings, branches and attention (0.1)")
    parser.add_argument(
        "--peers", nargs="*", default=list(PEERS), metavar="PEER", help="default: all, as their users run them"
    )
    parser.add_argument("--against", nargs="*", default=[], metavar="TREE", help="other source trees of ptjax")
    parser.add_argument(
        "--variants", nargs="*", default=[], metavar="KEY=VALUE,...", help="overrides of the experiment"
    )
    parser.add_argument("--rounds", type=int, default=6, help="in each of which everyone has a turn (6)")
    parser.add_argument("--seconds", type=float, default=3, help="of a turn (3)")
    parser.add_argument("--free", type=float, default=5, help="GiB that must be free for a worker to be started (5)")
    parser.add_argument("--out", metavar="FOLDER", help="where tables and raw numbers are kept")
    asked = parser.parse_args()
    for text in asked.items:
        try:
            Item.parse(text)
        except ValueError as error:
            parser.error(str(error))
    for name in asked.peers:
        peer, *settings = name.split("+")
        if peer not in PEERS or not {*settings} <= {"malloc", "mkl"}:
            parser.error(f"there is no peer {name!r}: name some of {', '.join(PEERS)}, and +malloc or +mkl behind")
    return asked


def _ours(text: str, asked: argparse.Namespace) -> list[Worker]:
    """This tree first, the reference of all ratios."""
    made = [_worker("ptjax", sys.executable, "ours", text, asked, "--tree", str(ROOT))]
    for tree in asked.against:
        name = f"ptjax in {tree} ({_commit(tree)})"
        made.append(_worker(name, sys.executable, "ours", text, asked, "--tree", str(Path(tree).resolve())))
    for options in asked.variants:
        words = ("--tree", str(ROOT), "--options", options)
        made.append(_worker(f"ptjax, {options}", sys.executable, "ours", text, asked, *words))
    return made


def _peer(name: str, text: str, item: Item, asked: argparse.Namespace) -> Worker | None:
    plain, *settings = name.split("+")
    peer = PEERS[plain]
    python = os.environ.get(peer.python, sys.executable if peer.python == "JAX_PY" else "")
    missing = [variable for variable in peer.needs if variable not in os.environ] + [peer.python] * (not python)
    if item.kind not in peer.kinds or missing:
        _tell(f"{name}: left out: " + (f"{' and '.join(missing)} not set" if missing else f"it has no {item.kind}"))
        return None
    options = ["--options", peer.options] if peer.options else []
    environment = MALLOC if "malloc" in settings else {}
    if "mkl" in settings:
        environment = environment | {"LD_PRELOAD": _library(INTEL)}
    return _worker(name, python, peer.module, text, asked, *options, environment=environment)


def _worker(name: str, python: str, module: str, text: str, asked, *words: str, environment={}) -> Worker:
    command = [python, "-m", f"benchmarks.peers.{module}", "--item", text, "--dropout", str(asked.dropout), *words]
    return Worker(name, command, {"JAX_PLATFORMS": "cpu"} | environment)


def markdown(item: Item, timings: list[Timing]) -> str:
    """A table with a row a worker, all ratios paired with the first one, which is ptjax."""
    ours, done = timings[0], [timing for timing in timings if not timing.failed]
    floor = min((timing for timing in done if timing.name in FLOORS), key=lambda timing: timing.median, default=None)
    heads = ["", "ms a step", "best", "times ptjax's (spread)", "tokens/s", "GFLOP/s", "of matmul's", "peak GiB"]
    heads += ["start s", "first step s", "faults a step", "loss"]
    rows = []
    for timing in timings:
        if timing.failed:
            rows.append([timing.name, timing.failed.replace("|", "/")] + [""] * (len(heads) - 2))
            continue
        needed, everywhere = (item.flops(where) / timing.median / 1e9 for where in (False, True))
        ratios, shares = [] if ours.failed else timing.over(ours), floor.over(timing) if floor else []
        row = [timing.name, timing.median * 1e3, timing.best * 1e3]
        row += [f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else None]
        row += [item.tokens / timing.median, f"{needed:.0f}" + f" ({everywhere:.0f})" * (everywhere > needed)]
        row += [f"{statistics.median(shares):.0%}" if shares else None, f"{timing.peak_bytes / 2**30:.1f}"]
        row += [f"{timing.start:.1f}", f"{timing.first_step:.1f}", f"{statistics.median(timing.faults):.0f}"]
        row += [" to ".join(f"{loss:.3f}" for loss in timing.losses)]
        rows.append(row)
    told = [f"{t.name}: " + ", ".join(f"{name} {number}" for name, number in t.versions.items()) for t in done]
    return table(heads, rows) + "\n\n" + "; ".join(told)


@functools.cache
def _library(text: str) -> str:
    """The path of a shared library, compiled from C."""
    path = f"{tempfile.mkdtemp()}/library.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", "-o", path, "-"], input=text, text=True, check=True)
    return path


def _commit(tree: str | Path) -> str:
    """The commit of a source tree, '+' where files differ from it; '' without git."""
    told = subprocess.run(
        ["git", "-C", str(tree), "describe", "--always", "--exclude=*", "--dirty=+"], capture_output=True, text=True
    )
    return told.stdout.strip()


def _tell(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
