"""What every worker shares. A worker is a process with one model and one item, which trains when it is told to.

    (worker)       READY {json}    once the model stands and two steps are done
    (benchmark)    run N        -> (worker)   TIMES {json}    seconds of each of N steps, page faults a step
    (benchmark)    quit         -> (worker)   BYE {json}      peak memory

It runs in an environment of its own, of which only NumPy is asked here.
"""

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from .items import Item

RATE, DECAY, BETAS, EPSILON = 1e-4, 0.01, (0.9, 0.95), 1e-8  # of everyone's AdamW


def arguments(**more: dict) -> argparse.Namespace:
    """item, dropout, options (a set of words) and threads. more: a worker's own flags, as of `add_argument`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--item", type=Item.parse, required=True)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--options", type=lambda text: set(filter(None, text.split(","))), default=set())
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    for name, words in more.items():
        parser.add_argument(f"--{name}", **words)
    return parser.parse_args()


def only(kind: str, item: Item) -> None:
    """Ends a worker that has no such model."""
    if item.kind != kind:
        sys.exit(f"it trains {kind} models only")


def versions(*packages: str) -> dict[str, str]:
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            pass
    return found


def serve(step: Callable[[int], float], *packages: str) -> None:
    """Trains on command until told to quit. step(i): trains step i, and returns the loss. packages: whose versions are
    told."""
    begin = time.perf_counter()
    losses = [step(0)]
    first = time.perf_counter() - begin
    at = time.time()
    losses.append(step(1))
    _say("READY", first_step_seconds=first, first_step_at=at, first_loss=losses[0], versions=versions(*packages))
    for line in sys.stdin:
        if line.split()[:1] != ["run"]:
            break
        times, faults = [], _usage().ru_minflt
        for _ in range(int(line.split()[1])):
            begin = time.perf_counter()
            losses.append(step(len(losses)))
            times.append(time.perf_counter() - begin)
        _say("TIMES", seconds=times, faults=(_usage().ru_minflt - faults) // len(times))
    _say("BYE", peak_bytes=_usage().ru_maxrss << 10, last_loss=losses[-1], steps=len(losses))
    os._exit(0)  # some frameworks' threads would not let go


def _usage() -> resource.struct_rusage:
    return resource.getrusage(resource.RUSAGE_SELF)


def _say(what: str, **facts) -> None:
    print(what, json.dumps(facts), flush=True)
