"""Training on one GPU beside Hugging Face transformers and nanoGPT, in bfloat16: what `benchmarks/gpu.sh` runs.

    benchmarks/gpu.sh OUT [--items gpt2-124m bert-large] [--parts attention steps input] [--minutes 9.5] [--tiny]

Into OUT go table.md and one JSON an item. Programs run in turns on the same GPU, and a ratio is taken within a turn.
    PYTHON        interpreter with jax and ptjax's requirements (python3)
    TORCH_PY      interpreter with torch and transformers; the same where it is not set
    NANOGPT_DIR   a checkout of karpathy/nanoGPT; left out where it is not set

MFU is (6 N D + attention) / time / peak: N the weights of matrices of the layers and, at positions where something is
predicted, of the head; D tokens; attention 12 width D times the keys that a query sees, summed over layers: half of
them where it is causal, those of its window where it has one (`benchmarks/gpu/work.py`). The peak is the data sheet's.
Nobody's attention probabilities are dropped. Peers' rows are not divided into documents; ptjax's are.
--tiny: the same code with small sizes, on any machine.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu.work import PEAKS, READ_EVERY, WORK, Work
from benchmarks.interleave import Timing, Worker, interleave
from benchmarks.machine import heading, table

PARTS = ("attention", "steps", "input")
# Each program has its share of the GPU's memory: all stand there at once.
SHARE = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.45"}
LONGEST = 150  # seconds that an item or another part may take, for the budget


def main() -> None:
    asked = _arguments()
    asked.out.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + 60 * asked.minutes
    device = _device()
    peak = next((peak for name, peak in PEAKS.items() if (device or "").startswith(name)), None)
    head = f"{heading('jax', 'jaxlib', 'flax', 'optax')}; {device or 'no GPU'}; peak " + (
        f"{peak / 1e12:g} TFLOP/s" if peak else "unknown"
    )
    told = [head]
    print(head, flush=True)

    def tell(text: str) -> None:
        print(text, flush=True)
        told.append(text)
        (asked.out / "table.md").write_text("\n\n".join(told) + "\n")

    def limit() -> float | None:
        return None if asked.tiny else max(10.0, min(LONGEST, until - time.monotonic()))

    rows, tiny, reserved = [], ["--tiny"] * asked.tiny, LONGEST * ("input" in asked.parts)
    for part in asked.parts:
        if part == "attention":
            tell(_part(["benchmarks.gpu.attention", *tiny], limit()))
        if part == "input":
            tell(_part(["benchmarks.gpu.input_wait", str(asked.out), *tiny], limit()))
        for name in asked.items * (part == "steps"):
            if not asked.tiny and time.monotonic() + LONGEST > until - reserved:
                tell(f"{name}: left out: --minutes={asked.minutes:g} would not be enough")
                continue
            work, steps = (WORK[name].tiny(), 2) if asked.tiny else (WORK[name], READ_EVERY)
            timings = interleave(_workers(name, work, tiny), asked.rounds, asked.seconds, say=_say)
            rows += _rows(name, work, timings, steps, peak)
            facts = dict(head=head, item=name, sizes=dataclasses.asdict(work), flops=work.flops(), steps=steps)
            facts["workers"] = [dataclasses.asdict(timing) for timing in timings]
            (asked.out / f"{name}.json").write_text(json.dumps(facts, indent=1))
    if rows:
        heads = ["item", "program", "ms a step", "tokens/s", "TFLOP/s", "MFU", "as fast as ptjax", "start s", "loss"]
        tell(table(heads, rows))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks/gpu.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder for tables and raw numbers")
    parser.add_argument("--items", nargs="+", default=list(WORK), choices=WORK, metavar="ITEM", help=", ".join(WORK))
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS, help="default: all, in this order")
    parser.add_argument("--minutes", type=float, default=9.5, help="items that would end later are left out (9.5)")
    parser.add_argument("--rounds", type=int, default=4, help="in each of which everyone has a turn (4)")
    parser.add_argument("--seconds", type=float, default=2, help="of a turn (2)")
    parser.add_argument("--tiny", action="store_true", help="small sizes, on any machine")
    return parser.parse_args()


def _device() -> str | None:
    """The GPU's name and driver, or None."""
    asked = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()
    except (OSError, subprocess.CalledProcessError, IndexError):
        return None


def _workers(name: str, work: Work, tiny: Sequence[str]) -> list[Worker]:
    torch = os.environ.get("TORCH_PY", sys.executable)

    def worker(shown: str, python: str, module: str, options: str = "") -> Worker:
        command = [python, "-m", f"benchmarks.gpu.{module}", "--item", name, "--options", options, *tiny]
        return Worker(shown, command, SHARE)

    made = [worker("ptjax", sys.executable, "ours"), worker("transformers, SDPA", torch, "peer", "compile")]
    if subprocess.run([torch, "-c", "import flash_attn"], capture_output=True).returncode == 0:
        made.append(worker("transformers, FlashAttention-2", torch, "peer", "compile,flash"))
    if work.kind == "causal" and "NANOGPT_DIR" in os.environ:
        made.append(worker("nanoGPT", torch, "peer", "compile,nanogpt"))
    return made


def _rows(name: str, work: Work, timings: Sequence[Timing], steps: int, peak: float | None) -> list[list]:
    rows, ours = [], timings[0]
    for timing in timings:
        if timing.failed:
            rows.append([name, f"{timing.name}: {timing.failed}"] + [None] * 7)
            continue
        step = timing.median / steps
        rate = work.flops() / step
        speed = None
        if not ours.failed:
            ratios = sorted(1 / ratio for ratio in timing.over(ours))
            speed = f"{ratios[len(ratios) // 2]:.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"
        used = f"{100 * rate / peak:.1f} %" if peak else None
        losses = " to ".join(f"{loss:.2f}" for loss in timing.losses)
        rows.append([name, timing.name, step * 1e3, work.tokens / step, rate / 1e12, used, speed, timing.start, losses])
    return rows


def _part(module: Sequence[str], limit: float | None) -> str:
    """What a program of its own prints, or why it does not. module: with its arguments. limit: seconds it may take."""
    command, shared = [sys.executable, "-m", *module], dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        done = subprocess.run(command, **shared, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return f"{module[0]}: stopped after {limit:.0f} s"
    text = done.stdout.strip()
    return text if done.returncode == 0 else f"{module[0]} failed: {text[-600:]}"


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
