"""Attention alone, forward and backward in bfloat16 on packed rows: ptjax's kernel, the same without documents (what
honouring them costs), tokamax's where it is installed, and products written out.

    python -m benchmarks.gpu.attention [--tiny]

error: of the gradient of queries, |found - exact| / |exact|, beside products written out in float32.
"""

import argparse
import functools
import importlib.util
import statistics
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.machine import seconds, table
from ptjax.logging import measure_peak
from ptjax.nn import cudnn
from ptjax.nn.attention import allowed, attend
from ptjax.nn.fused import documents
from ptjax.types import Array, Mask

# rows, length, heads, head size, causal, window
SHAPES = {
    "bert-base-512": (64, 512, 12, 64, False, None),
    "gpt2-124m": (16, 1024, 12, 64, True, None),
    "modernbert-8192, global": (4, 8192, 12, 64, False, None),
    "modernbert-8192, local": (4, 8192, 12, 64, False, 65),
}
REPEATS, DOCUMENTS = 20, 4
MEMORY = 2**32  # bytes of products in float32 above which they are not written out


def kernels(mask: Mask, window: int | None) -> Iterator[tuple[str, Callable[[Array, Array, Array], Array]]]:
    implementation = "cudnn" if jax.default_backend() == "gpu" else "xla"
    ours = functools.partial(cudnn.attend, window=window, implementation=implementation)
    yield "ptjax", lambda q, k, v: ours(q, k, v, mask)
    yield "ptjax, one document a row", lambda q, k, v: ours(q, k, v, Mask(mask.causal))
    if importlib.util.find_spec("tokamax"):
        yield "tokamax", functools.partial(_tokamax, mask=mask, window=window)
    yield "written out", functools.partial(_written_out, mask=mask, window=window)


def _written_out(q, k, v, *, mask, window):
    return attend(q, k, v, allowed(mask, q.shape[1], q.shape[1], window=window), lambda p: p)


def _tokamax(q, k, v, *, mask, window):
    """Each query's first and last key, which its kernels for Hopper read; not yet in its public interface."""
    from tokamax._src.ops.attention import api, base

    ids_BL, place_L = documents(mask), jnp.arange(q.shape[1])
    begins_BL = jnp.pad(ids_BL[:, 1:] != ids_BL[:, :-1], [(0, 0), (1, 0)], constant_values=True)
    first_BL = jax.lax.cummax(jnp.where(begins_BL, place_L, 0), axis=1)
    ends_BL = jnp.pad(begins_BL[:, 1:], [(0, 0), (0, 1)], constant_values=True)
    last_BL = jax.lax.cummin(jnp.where(ends_BL, place_L, q.shape[1]), axis=1, reverse=True)
    if window is not None:
        first_BL, last_BL = jnp.maximum(first_BL, place_L - window + 1), jnp.minimum(last_BL, place_L + window - 1)
    last_BL = jnp.minimum(last_BL, place_L) if mask.causal else last_BL
    spans = base.Mask(k_start=first_BL[:, None], k_end=last_BL[:, None] + 1)
    name = "mosaic_gpu" if jax.default_backend() == "gpu" else "xla"
    return api.IMPLEMENTATIONS[name](q, k, v, mask=spans)


def packed(rows: int, length: int, causal: bool) -> Mask:
    ends = np.random.default_rng(0).random((rows, length)) < DOCUMENTS / length
    return Mask(causal, valid=jnp.ones((rows, length), bool), segments=jnp.asarray(ends.cumsum(axis=1), jnp.int32))


def measure(kernel: Callable, inputs: list[Array], repeats: int) -> tuple[float, Array]:
    """(median seconds of forward and backward, the gradient of queries)."""

    @jax.jit
    def gradient(q, k, v, asked):
        y, pull = jax.vjp(kernel, q, k, v)
        return pull(asked.astype(y.dtype))

    found = jax.block_until_ready(gradient(*inputs))
    several = lambda: jax.block_until_ready([gradient(*inputs) for _ in range(5)])
    return statistics.median(seconds(several) / 5 for _ in range(repeats)), found[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="small shapes, for any machine")
    tiny = parser.parse_args().tiny
    print(f"matrix products in bfloat16: {measure_peak('bfloat16') / 1e12:.3g} TFLOP/s", flush=True)
    rows = []
    for name, (batch, length, heads, size, causal, window) in SHAPES.items():
        if tiny:
            batch, length, heads, size = 2, length // 16, 2, 16
        random, mask = np.random.default_rng(1), packed(batch, length, causal)
        inputs = [jnp.asarray(random.normal(size=(batch, length, heads, size)), jnp.bfloat16) for _ in range(4)]
        one = [x[:1].astype(jnp.float32) for x in inputs]
        exact = measure(
            functools.partial(_written_out, mask=jax.tree.map(lambda x: x[:1], mask), window=window), one, 1
        )[1]
        seen = min(length, 2 * window - 1) if window else length
        flops = 14 * batch * heads * length * (seen / 2 if causal else seen) * size  # seven products of 2 L seen K each
        for kernel, function in kernels(mask, window):
            if kernel == "written out" and batch * heads * length**2 * 4 > MEMORY:
                rows.append([name, kernel, None, None, None])
                continue
            try:
                time, found = measure(function, inputs, 2 if tiny else REPEATS)
            except Exception as error:  # one kernel that does not run here is told beside the others
                rows.append([name, f"{kernel}: {type(error).__name__}: {str(error)[:120]}", None, None, None])
                continue
            error = jnp.linalg.norm(found[:1].astype(jnp.float32) - exact) / jnp.linalg.norm(exact)
            error = None if kernel.endswith("a row") else f"{error:.1e}"
            rows.append([name, kernel, time * 1e3, flops / time / 1e12, error])
    print(table(["shape", "kernel", "ms", "TFLOP/s", "error"], rows), flush=True)


if __name__ == "__main__":
    main()
