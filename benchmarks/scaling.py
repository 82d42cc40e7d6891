"""What do more devices and more layers add? Weak scaling over host devices, and compile time against depth.

    python -m benchmarks.scaling [--parts steps compile] [--devices 1 2 4 8] [--layers 2 6 12 24] [--rows=8]

Steps: n devices share the cores of one processor, so nothing can get faster. What is measured is what partitioning
adds: a step of n devices with n times the rows, over a step of one device with as many rows, for data, fsdp and tensor
meshes, all in turns in one process. The floor is 1, but for what a mesh does n times by its nature: with `data` each
device updates all parameters, and so the floor has n - 1 times what a step of one device costs with no rows (from a
line through its times). The collectives are those of the compiled step, with the bytes that a device gets from them.

Compile: tracing, lowering and compiling a training step of so many layers, as a loop (scan) and written out (unrolled),
without the compilation cache. The floor is one layer's share, once: what the shallowest takes, as a loop.
"""

import argparse
import collections
import math
import os
import re
import statistics
import tempfile

import numpy as np

from benchmarks.machine import heading, seconds, table
from experiments import cli

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
os.environ.setdefault("NPROC", "16")  # threads: devices wait for each other in them
os.environ["PTJAX_COMPILATION_CACHE"] = "off"

import jax  # noqa: E402  reads what is set above

from ptjax.data.pipeline import Data, batch_at  # noqa: E402
from ptjax.data.prepare import Corpus, prepare  # noqa: E402
from ptjax.data.sources import Stdlib  # noqa: E402
from ptjax.data.tokenizers import SentencePiece  # noqa: E402
from ptjax.models import BERT  # noqa: E402
from ptjax.objectives import MLM  # noqa: E402
from ptjax.partition import MeshConfig  # noqa: E402
from ptjax.train import Experiment, Run  # noqa: E402

LENGTH = 128
ITEM = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "pred": 1, "s8": 1, "u8": 1, "f64": 8, "u64": 8, "s64": 8}
COLLECTIVE = re.compile(r"= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")


def experiment(corpus: Corpus, rows: int, mesh: dict[str, int], **model) -> Experiment:
    sizes = dict(layers=2, heads=8, max_length=LENGTH, unroll=False) | model
    return Experiment(
        model=BERT.preset("mini", **sizes),
        objective=MLM(),
        data=Data(corpus=corpus, length=LENGTH, batch_size=rows),
        steps=1000,
        mesh=MeshConfig(**mesh),
    )


class Mesh:
    """A run on some of the devices, ready to step."""

    def __init__(self, corpus: Corpus, rows: int, devices: int, axis: str):
        mesh = {"data": 1} | {axis: devices}
        self.run = Run.open(experiment(corpus, rows, mesh), jax.devices()[:devices])
        self.step = self.run.train_step(0)
        self.state, self.batch = self.run.init(), self.step.place(batch_at(self.run.pipeline, 0))
        self.collectives = collectives(self.step.lower(self.state, self.batch).compile().as_text())
        self.times = []

    def time(self, steps: int) -> None:
        def go():
            for _ in range(steps):
                self.state, _ = self.step(self.state, self.batch)
            jax.block_until_ready(self.state)

        self.times.append(seconds(go) / steps)


def collectives(text: str) -> str:
    """How often each is in a compiled program, and its bytes in all: "3 all-reduce 1.2 MB". Those in a loop once."""
    count, size = collections.Counter(), collections.Counter()
    for shapes, name in COLLECTIVE.findall(text):
        count[name] += 1
        for kind, dims in re.findall(r"(\w+)\[([\d,]*)\]", shapes):
            size[name] += ITEM.get(kind, 4) * math.prod(map(int, filter(None, dims.split(","))))
    return ", ".join(f"{n} {name} {size[name] / 1e6:.2g} MB" for name, n in count.items()) or "none"


def scale(corpus: Corpus, devices: list[int], rows: int, rounds: int, steps: int) -> list[list[object]]:
    alone = {n: Mesh(corpus, n * rows, 1, "data") for n in devices}
    meshes = {
        (axis, n): Mesh(corpus, n * rows, n, axis) for axis in ("data", "fsdp", "tensor") for n in devices if n > 1
    }
    everyone = [*alone.values(), *meshes.values()]
    for turn in range(rounds + 1):
        for mesh in everyone if turn % 2 else reversed(everyone):
            mesh.time(steps)
    for mesh in everyone:
        del mesh.times[0]
    base = {n: statistics.median(mesh.times) for n, mesh in alone.items()}
    fixed = max(np.polyfit(list(base), list(base.values()), 1)[1], 0.0) if len(base) > 1 else 0.0
    table_rows: list[list[object]] = [["one device", n, n * rows, base[n], 1.0, 1.0, "none"] for n in devices]
    for (axis, n), mesh in meshes.items():
        ratio = statistics.median(ours / one for ours, one in zip(mesh.times, alone[n].times))
        floor = 1 + (n - 1) * fixed / base[n] if axis == "data" else 1.0
        own = statistics.median(mesh.times)
        table_rows.append([f"{axis}={n}", n, n * rows, own, ratio, floor, mesh.collectives])
    return table_rows


def compile_times(corpus: Corpus, depths: list[int], rows: int) -> list[list[object]]:
    table_rows, floor = [], None
    for layers in depths:
        times = []
        for unroll in (False, True):
            run = Run.open(experiment(corpus, rows, {}, layers=layers, unroll=unroll), jax.devices()[:1])
            batch = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in batch_at(run.pipeline, 0).items()}
            lowered = []
            times.append(seconds(lambda: lowered.append(run.train_step(0).lower(run.abstract, batch))))
            times.append(seconds(lowered[0].compile))
        floor = floor or times[1]
        scan, unrolled = sum(times[:2]), sum(times[2:])
        table_rows.append([layers, *times, unrolled / scan, scan / (floor + times[0])])
    return table_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="*", default=["steps", "compile"], choices=["steps", "compile"])
    parser.add_argument("--devices", nargs="*", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--layers", nargs="*", type=int, default=[2, 6, 12, 24])
    parser.add_argument("--rows", type=int, default=8, help="a device")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="a round")
    options = parser.parse_args()
    cli.set_up_jax()
    print(heading("jax", "flax") + "\n")
    with tempfile.TemporaryDirectory() as name:
        source, tokenizer = Stdlib(), SentencePiece(model="bpe", vocab_size=4096)
        corpus = Corpus(path=f"{name}/corpus", source=source, tokenizer=tokenizer)
        prepare(corpus)
        if "steps" in options.parts:
            rows = scale(corpus, options.devices, options.rows, options.rounds, options.steps)
            header = ["mesh", "devices", "rows", "seconds a step", "of one device", "floor", "collectives"]
            print(table(header, rows) + "\n", flush=True)
        if "compile" in options.parts:
            header = ["layers", "scan: trace", "scan: compile", "unrolled: trace", "unrolled: compile"]
            rows = compile_times(corpus, options.layers, options.rows)
            print(table([*header, "unrolled / scan", "scan / shallowest"], rows))


if __name__ == "__main__":
    main()
