"""Every objective on every body under all the laws, and the table of docs/objectives.md from what they found.

    make check-all
    python -m tests.contracts.check_all BERT GPT     # of these bodies alone

One JSON a pair in runs/check-all; a pair is looked at again when code that it uses has changed.
"""

import ast
import dataclasses
import functools
import hashlib
import importlib.util
import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import chz
import jax

from experiments import cli
from experiments.check import set_up_devices
from ptjax import check
from ptjax.objectives import Objective
from tests.contracts import cases

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "runs" / "check-all"
PAGE = ROOT / "docs" / "objectives.md"
MARKS = "<!-- what make check-all found -->\n", "<!-- end -->"


def main(bodies: Sequence[str] = ()) -> None:
    cli.set_up_jax()
    set_up_devices()
    RESULTS.mkdir(parents=True, exist_ok=True)
    for body in bodies or cases.SHIPPED_BODIES:
        for objective in cases.SHIPPED_OBJECTIVES:
            if goes_on(objective, body):
                found = look(objective, body)
                print(f"{objective} on {body}: {verdict(found)}", flush=True)
                PAGE.write_text(with_table(PAGE.read_text()))


def goes_on(objective: str, body: str) -> bool:
    return bool(cases.SHIPPED_OBJECTIVES[objective].needs & cases.SHIPPED_BODIES[body].offers)


def look(objective: str, body: str) -> list[dict]:
    """What each law finds of a pair: from the file, where it is of the same code."""
    asks, model = cases.SHIPPED_OBJECTIVES[objective], cases.SHIPPED_BODIES[body]
    if model.memory_length and not asks.carries:
        model = chz.replace(model, memory=0)
    path, code = RESULTS / f"{objective}-{body}.json", fingerprint(asks, model)
    if path.exists() and (kept := json.loads(path.read_text()))["code"] == code:
        return kept["laws"]
    start = time.monotonic()
    laws = [dataclasses.asdict(result) for result in check.check(cases.experiment(asks, model))]
    kept = {"code": code, "seconds": round(time.monotonic() - start, 1), "laws": laws}
    path.write_text(json.dumps(kept, indent=1))
    jax.clear_caches()
    return laws


def verdict(laws: list[dict]) -> str:
    broken = [result["law"] for result in laws if result["passed"] is False]
    return f"✗ {', '.join(broken)}" if broken else "✓"


def with_table(page: str) -> str:
    """The page with the table of results between its marks, from the files alone."""
    bodies = list(cases.SHIPPED_BODIES)
    lines = [f"| | {' | '.join(bodies)} |", "|---" * (1 + len(bodies)) + "|"]
    for objective in cases.SHIPPED_OBJECTIVES:
        cells = []
        for body in bodies:
            path = RESULTS / f"{objective}-{body}.json"
            if not goes_on(objective, body):
                cells.append("–")
            else:
                cells.append(verdict(json.loads(path.read_text())["laws"]) if path.exists() else "not run")
        lines.append(f"| `{objective}` | {' | '.join(cells)} |")
    table = "\n".join(lines)
    between = re.compile(f"(?<={re.escape(MARKS[0])}).*?(?={re.escape(MARKS[1])})", re.DOTALL)
    assert between.search(page), f"{PAGE} has lost its marks"
    return between.sub(f"\n{table}\n\n", page)


# What code a pair uses.


def fingerprint(objective: Objective, model) -> str:
    """Hash of the files of ptjax that a pair and the laws import, and of the settings."""
    files = code_of("ptjax.check", *(type(part).__module__ for part in (objective, *objective.parts(), model)))
    digest = hashlib.sha256(f"{objective} {model}".encode())
    for name in sorted(files):
        digest.update(files[name].read_bytes())
    return digest.hexdigest()


def code_of(*modules: str) -> dict[str, Path]:
    """Name -> file, of these modules and of all of ptjax that they import."""
    files, waiting = {}, [*modules]
    while waiting:
        name = waiting.pop()
        if name not in files:
            files[name] = Path(importlib.util.find_spec(name).origin)
            waiting += imported(files[name])
    return files


@functools.cache
def imported(path: Path) -> list[str]:
    """The modules of ptjax that a file imports, less what a function of it does when it is called: no law reads the
    weights of a published model."""
    tree = ast.parse(path.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    late = {id(node) for function in functions for node in ast.walk(function)}
    found = []
    for node in ast.walk(tree):
        if id(node) in late:
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            folder = (ROOT / node.module.replace(".", "/")).is_dir()
            found += [f"{node.module}.{a.name}" if folder else node.module for a in node.names]
    return [name for name in found if name.startswith("ptjax.") and importlib.util.find_spec(name)]


if __name__ == "__main__":
    main(sys.argv[1:])
