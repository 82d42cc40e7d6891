"""Runs `experiments.pretrain` up to its first step with the parts of its start timed; `benchmarks.start` calls it.

    python -m benchmarks.start_parts BEGIN ARGUMENTS

BEGIN: when the command was given, in seconds since 1970. Prints JSON: seconds of each part, of the main thread. An
instant belongs to the innermost part that it lies in.
"""

import functools
import json
import os
import sys
import threading
import time

IMPORTED = time.time()
intervals: list[tuple[float, float, str]] = []  # begin, end, part


def add(part: str, begin: float) -> None:
    if threading.current_thread() is threading.main_thread():
        intervals.append((begin, time.time(), part))


def wrap(owner: object, name: str, part: str) -> None:
    raw = vars(owner)[name]
    function = raw.__func__ if isinstance(raw, classmethod) else raw

    @functools.wraps(function)
    def timed(*args, **kwargs):
        begin = time.time()
        try:
            return function(*args, **kwargs)
        finally:
            add(part, begin)

    setattr(owner, name, classmethod(timed) if isinstance(raw, classmethod) else timed)


def shares() -> dict[str, float]:
    edges = sorted({t for begin, end, _ in intervals for t in (begin, end)})
    found: dict[str, float] = {}
    for begin, end in zip(edges, edges[1:]):
        around = [interval for interval in intervals if interval[0] <= begin and end <= interval[1]]
        part = max(around, key=lambda interval: (interval[0], -interval[1]))[2]
        found[part] = found.get(part, 0.0) + end - begin
    return found


def main() -> None:
    born = float(sys.argv.pop(1))
    intervals.append((born, IMPORTED, "start of Python"))
    begin = time.time()
    import jax

    add("import jax", begin)
    from experiments import pretrain  # as the command does it
    from ptjax import logging, loop, provenance, train

    add("other imports", begin)
    kinds = {
        "jaxpr_trace": "tracing",
        "jaxpr_to_mlir_module": "lowering",
        "backend_compile": "compiling, or reading it",
    }

    def listen(event: str, seconds: float, **_) -> None:
        kind = kinds.get(event.rpartition("/")[2].removesuffix("_duration"))
        if kind:
            add(kind, time.time() - seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    wrap(train.Run, "open", "sizes and devices")
    wrap(train, "Pipeline", "opening data")
    wrap(train.Run, "init", "initial state")
    wrap(provenance.Record, "begin", "hashes of the initial state")
    wrap(train, "measure_peak", "peak of the machine")
    since, run = [], loop.Loop.run

    def began(self, *args):
        since.append(time.time())
        return run(self, *args)

    def done(self, step, metrics, timing):
        add("first batch, run of the step", since[0])
        add("rest", born)
        print("PARTS", json.dumps(shares()), flush=True)
        os._exit(0)

    loop.Loop.run, logging.Logger.train = began, done
    pretrain.cli.run(pretrain.main, base=pretrain.Experiment, flags=pretrain.FLAGS, doc=pretrain.__doc__)


if __name__ == "__main__":
    main()
