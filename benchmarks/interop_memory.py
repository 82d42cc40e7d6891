"""How much memory does a published model take on its way in and out? The peak of each way, beside what is predicted.

    python -m benchmarks.interop_memory [layers of GPT-2's 1.5B, default 12, which is 1.8 GB]

Each way runs in a process of its own, set up as mains are; what counts is resident memory above that of the process
when it has imported everything. Predicted is

    load       the model, one leaf (all layers of a kernel), and one tensor of the file, mapped
    half       half of that: one of two processes over which every leaf is divided
    import     the model twice, for Orbax copies what it writes
    save       one leaf three times: as Orbax has compressed it, as read, and as an array

Two shared cores of an AMD EPYC, jax 0.10, for 1.80 GB with a largest leaf of 0.49: load 2.62 GB predicted and 2.49
measured, half 1.31 and 1.43, import 3.61 and 3.48, save 1.47 and 1.44 to 2.06.
"""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WAYS = ("load", "half", "import", "save")
ROWS = 50_257


def resident(name: str) -> int:
    """Bytes, by /proc: VmRSS now, VmHWM at most."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) << 10


@contextlib.contextmanager
def measured(way: str, predicted: float):
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    before, start = resident("VmRSS"), time.perf_counter()
    yield
    seconds, peak = time.perf_counter() - start, resident("VmHWM") - before
    print(f"{way:8}predicted {predicted / 1e9:5.2f} GB, measured {peak / 1e9:5.2f} GB in {seconds:5.1f} s", flush=True)


def run(way: str, folder: Path, layers: int) -> None:
    from experiments.cli import set_up_jax

    set_up_jax()
    import jax
    import numpy as np
    from flax import traverse_util
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from ptjax.checkpoint import Checkpoints, Saved
    from ptjax.interop.export import on_disk
    from ptjax.interop.families import FAMILIES
    from ptjax.interop.huggingface import save
    from ptjax.interop.published import leaf_shapes, look
    from ptjax.models import GPT

    config = GPT.preset("1.5B", layers=layers, unroll=False)
    family = next(family for family in FAMILIES if family.own(config))
    shapes = leaf_shapes(family, config, frozenset({"body"}), ROWS)
    size = {path: 4 * int(np.prod(leaf.shape)) for path, leaf in shapes.items()}
    model, leaf, tensor = sum(size.values()), max(size.values()), size["body/embed/tokens"]
    published, checkpoints = folder / "published", folder / "checkpoints"

    if way == "make":
        rng = np.random.default_rng(0)

        class Drawn:
            def __init__(self, leaf):
                self.shape = leaf.shape

            def __array__(self, dtype=None, copy=None):
                return rng.standard_normal(self.shape, np.float32)

        save(
            published,
            config,
            traverse_util.unflatten_dict({k: Drawn(v) for k, v in shapes.items()}, sep="/"),
            rows=ROWS,
        )
        print(
            f"a model of {model / 1e9:.2f} GB, its largest leaf {leaf / 1e9:.2f}, its largest tensor {tensor / 1e9:.2f}"
        )
    if way == "load":
        found = look(published)
        with measured(way, model + leaf + tensor):
            jax.block_until_ready(found.params())
    if way.startswith("half"):
        _, port, index = way.split(":")
        jax.distributed.initialize(f"localhost:{port}", 2, int(index))
        mesh = Mesh(np.array(jax.devices()), ("fsdp",))
        axis = {path: 1 if "layers" in path else 0 for path in shapes}  # the width, as partition's rules have it
        whole = lambda path: shapes[path].shape[axis[path]] % 2
        spec = lambda path: PartitionSpec() if whole(path) else PartitionSpec(*[None] * axis[path], "fsdp")
        where = {path: NamedSharding(mesh, spec(path)) for path in shapes}
        found = look(published)
        with measured("half", (model + leaf + tensor) / 2) if index == "0" else contextlib.nullcontext():
            jax.block_until_ready(found.params(traverse_util.unflatten_dict(where, sep="/")))
        jax.distributed.shutdown()
    if way == "import":
        found = look(published)
        with measured(way, 2 * model):
            saving = Checkpoints(checkpoints)
            saving.save(0, {"params": found.params()}, config_json="{}")
            saving.close()
    if way == "save":
        params = on_disk(Saved.find(checkpoints))
        with measured(way, 3 * leaf):
            save(folder / "again", config, params, rows=ROWS)
        for file in published.glob("*.safetensors"):
            assert subprocess.run(["cmp", file, folder / "again" / file.name]).returncode == 0, file


def main() -> None:
    from benchmarks.machine import machine

    layers = int(sys.argv[1]) if sys.argv[1:] else 12
    with tempfile.TemporaryDirectory() as folder:
        python = lambda way: [sys.executable, "-m", "benchmarks.interop_memory", way, folder, str(layers)]
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        print(machine(), flush=True)
        for way in ("make", *WAYS):
            if way == "half":
                with socket.socket() as free:
                    free.bind(("localhost", 0))
                    port = free.getsockname()[1]
                other = subprocess.Popen(python(f"half:{port}:1"), env=environment)
                subprocess.run(python(f"half:{port}:0"), check=True, env=environment)
                other.wait()
            else:
                subprocess.run(python(way), check=True, env=environment)


if __name__ == "__main__":
    if len(sys.argv) == 4:
        run(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
