"""Does ptjax train as PyTorch does? The same books, order, masks, initial weights and optimizer through both.

    python benchmarks/parity_books/run.py --model=bert --minutes=20 --out=runs/parity/bert --torch-python=PYTHON

PYTHON is that of an environment of its own: pip install torch==2.13.0 transformers==5.23.0 numpy. A pilot of 25 steps
says how many steps the slower of the two takes in `--minutes`; both then train for as many, side by side on `--threads`
cores each: ptjax by its own `train()` (ours.py), PyTorch on Hugging Face's model over the recorded batches (theirs.py).
Writes result.json and curves.png into `--out`: the largest relative difference of the first 100 losses, and at the end
the losses on the whole validation split.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PILOT = 25


def train_both(out: Path, args: argparse.Namespace, steps: int, *validation_batches: int) -> tuple[dict, dict]:
    """Both trainings of so many steps; what each wrote."""
    threads = args.threads
    out.mkdir(parents=True, exist_ok=True)
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
        # For both: keep freed memory rather than fault it in again at every step.
        "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
        "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
    }
    ours = [args.model, out, *map(str, (steps, *validation_batches))]
    subprocess.run([sys.executable, HERE / "ours.py", "record", *ours], env=env, check=True)
    cores = sorted(os.sched_getaffinity(0))

    def start(name: str, command: list, first: int) -> subprocess.Popen:
        (out / f"{name}.json").unlink(missing_ok=True)
        own = {cores[(first + i) % len(cores)] for i in range(threads)}
        with open(out / f"{name}.log", "w") as log:
            pin = lambda: os.sched_setaffinity(0, own)
            return subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT, preexec_fn=pin)

    both = {
        "ours": start("ours", [sys.executable, HERE / "ours.py", "train", *ours], 0),
        "theirs": start("theirs", [args.torch_python, HERE / "theirs.py", out, str(threads)], threads),
    }
    try:
        for name, process in both.items():
            if process.wait():
                sys.exit(f"{name} failed:\n{(out / f'{name}.log').read_text()[-3000:]}")
    finally:
        for process in both.values():
            process.kill()
    return tuple(json.loads((out / f"{name}.json").read_text()) for name in both)


def relative(a: float, b: float) -> float:
    return abs(a - b) / abs(b)


def compare(ours: dict, theirs: dict) -> dict:
    differences = [relative(a, b) for a, b in zip(ours["losses"], theirs["losses"], strict=True)]
    return {
        "steps": len(differences),
        "largest relative difference of the first 100 losses": max(differences[:100]),
        "largest relative difference of all losses": max(differences),
        "final validation loss": {"ptjax": ours["validation"], "torch": theirs["validation"]},
        "relative difference of the final validation losses": relative(ours["validation"], theirs["validation"]),
        "seconds a step": {"ptjax": ours["seconds_per_step"], "torch": theirs["seconds_per_step"]},
        "relative difference of Hugging Face's own loss, step 1": theirs["own_loss_difference"],
        "versions": ours["versions"] | theirs["versions"],
        "machine": f"{os.cpu_count()} cores, {processor()}",
    }


def processor() -> str:
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return names[0] if names else platform.machine()


def draw(path: Path, model: str, ours: dict, theirs: dict) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (above, below) = plt.subplots(2, 1, sharex=True, figsize=(8, 7), height_ratios=(2, 1))
    steps = range(1, len(ours["losses"]) + 1)
    for name, run, style in (("ptjax", ours, "-"), ("PyTorch, Hugging Face", theirs, "--")):
        (line,) = above.plot(steps, run["losses"], style, linewidth=1, label=f"{name}, training")
        score, marker = run["validation"], "o" if style == "-" else "x"
        above.plot(steps[-1], score, marker, color=line.get_color(), label=f"{name}, validation {score:.4f}")
    above.set_ylabel("loss (nats a predicted token)")
    above.set_title(f"{model.upper()} on 41 MB of books: the same run through ptjax and through PyTorch")
    above.legend()
    below.semilogy(steps, [relative(a, b) + 1e-9 for a, b in zip(ours["losses"], theirs["losses"])], linewidth=0.7)
    below.axhline(1e-3, color="grey", linestyle=":")
    below.set_ylabel("relative difference")
    below.set_xlabel("step")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("bert", "gpt"), required=True)
    parser.add_argument("--minutes", type=float, default=20, help="of training, for the slower of the two")
    parser.add_argument("--steps", type=int, help="train so many steps instead, without a pilot")
    parser.add_argument("--threads", type=int, default=1, help="cores for each")
    parser.add_argument("--torch-python", required=True, help="interpreter that has torch and transformers")
    parser.add_argument("--out", type=Path, required=True, help="scratch folder, with results at the end")
    args = parser.parse_args()
    steps = args.steps
    if steps is None:
        pilot = train_both(args.out.with_name(f"{args.out.name}-pilot"), args, PILOT, 1)
        seconds = [run["seconds_per_step"] for run in pilot]
        steps = max(PILOT, int(60 * args.minutes / max(seconds)))
        print(f"seconds a step: ptjax {seconds[0]:.3f}, torch {seconds[1]:.3f}; {steps} steps", flush=True)
    ours, theirs = train_both(args.out, args, steps)
    result = {"model": args.model, "threads": args.threads} | compare(ours, theirs)
    (args.out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    draw(args.out / "curves.png", args.model, ours, theirs)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
