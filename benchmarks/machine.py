"""What every benchmark prints: the machine, the versions, medians with their spread, tables in Markdown, floors."""

import datetime
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np


def machine() -> str:
    """Processor, the cores that this process may use, memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{_processor()}, {cores()} core{'s' * (cores() > 1)}, {memory:.0f} GiB"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def cores() -> int:
    return len(os.sched_getaffinity(0))


def versions(*packages: str) -> str:
    """Of Python and of installed packages."""
    return ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in packages)])


def heading(*packages: str) -> str:
    """A table's first line: when, where and with what it was measured."""
    return f"{datetime.date.today()}; {machine()}; {versions(*packages)}"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Markdown. Numbers are shown with three digits; None as a dash."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(values: Sequence[float], unit: str = "") -> str:
    """Median, with the least and the most in brackets."""
    return f"{_cell(float(statistics.median(values)))}{unit} ({_cell(float(min(values)))}-{_cell(float(max(values)))})"


def paired(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median ratio theirs / ours of times measured in turns: above 1, ours is faster."""
    return statistics.median(b / a for a, b in zip(ours, theirs, strict=True))


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def copy_speed(size: int = 256 << 20, repeats: int = 7) -> float:
    """Bytes a second that one thread copies in memory that has been touched: the median."""
    source, target = np.ones(size, np.uint8), np.ones(size, np.uint8)
    return size / statistics.median(seconds(lambda: np.copyto(target, source)) for _ in range(repeats))
