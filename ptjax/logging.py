"""What a run tells: metrics.jsonl always, a progress bar or plain lines, TensorBoard and Weights & Biases on request.

A line of metrics.jsonl is {"kind": "train" | "validation" | "event", "step": ..., "time": seconds since 1970, ...}.
Each kind but "event" has one line a step: a resumed run takes out the lines that it is about to write again.
"""

import functools
import importlib
import json
import math
import statistics
import sys
import time
import types
from pathlib import Path
from typing import Any

import chz
import jax
import jax.numpy as jnp
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from ptjax.checkpoint import disk_errors
from ptjax.config import Config, UserError

FILE = "metrics.jsonl"
PLAIN_SECONDS = 10.0  # at least so long between the plain lines of a run that has no terminal
LAST_VALUE = ("learning_rate", "skipped")  # shown as they are; other metrics are averaged between lines


@chz.chz
class Logging(Config):
    """What to show, and how often."""

    every: int = chz.field(default=20, doc="steps between lines of metrics.jsonl; each is the mean of its steps")
    progress: bool = chz.field(default=True, doc="a bar on a terminal, and otherwise a plain line now and then")
    tensorboard: bool = chz.field(default=False, doc="write event files into workdir/tensorboard")
    wandb: str | None = chz.field(default=None, doc="a Weights & Biases project to log to")

    @chz.validate
    def _check_every(self):
        if self.every < 1:
            raise ValueError(f"logging.every={self.every}: must be at least 1")


class Logger:
    """The log of one process; on all but the `primary` one, nothing happens."""

    def __init__(
        self,
        workdir: str | Path,
        config: Logging,
        *,
        total_steps: int,
        tokens_per_step: int,
        flops_per_step: float,
        peak_flops: float | None,
        primary: bool = True,
        start_step: int = 0,
    ):
        """
        Args:
          flops_per_step, peak_flops: FLOPs and FLOP/s of all devices together; MFU is their ratio over time.
          start_step: steps done before; what metrics.jsonl has of later ones is taken out.

        Raises:
          UserError: an extra is not installed; `workdir` is not writable.
        """
        self.config, self.total_steps, self.start_step = config, total_steps, start_step
        self.tokens_per_step, self.flops_per_step, self.peak_flops = tokens_per_step, flops_per_step, peak_flops
        self.primary = primary
        self.step = start_step
        self._window = _Window()
        self._first: tuple[int, float] | None = None  # (step, time) from which the time to the end is foretold
        self._excluded = 0.0
        self._bar = self._file = None
        self._last_call = self._last_plain = -math.inf
        self._writers: list[Any] = []
        if not primary:
            return
        workdir = Path(workdir)
        if config.tensorboard:
            self._writers.append(_TensorBoard(workdir, start_step))
        if config.wandb:
            self._writers.append(_WandB(workdir, config.wandb))
        with disk_errors(workdir):
            workdir.mkdir(parents=True, exist_ok=True)
            self._file = _open_after(workdir / FILE, start_step)
        if config.progress and sys.stdout.isatty():
            columns = (TextColumn("{task.completed}/{task.total}"), BarColumn(20), TaskProgressColumn())
            self._bar = Progress(*columns, TextColumn("{task.description}"), refresh_per_second=4, console=Console())
            self._task = self._bar.add_task("compiling", total=total_steps, completed=start_step)
            self._bar.start()

    def train(self, step: int, metrics: dict[str, float], timing: dict[str, float]) -> None:
        """Takes in one training step, in order; `timing`: seconds of 'input', 'device' and 'checkpoint' waits."""
        now = time.perf_counter()
        self._window.add(metrics)
        if self._first is None:
            self._first = (step, now)  # this step had the compilation in it: no speed is measured before
            self._window.start = now
        else:
            self._window.time(timing)
        self.step, self._last_call = step, now
        if not self.primary:
            return
        last = step == self.total_steps
        values = self._window.means() | self._speed(now)
        if self._bar:
            self._bar.update(self._task, completed=step, description=self._describe(values, now))
        if step % self.config.every and not last:
            return
        self._write("train", step, values)
        self._window = _Window(start=now)
        if self.config.progress and not self._bar and (last or now - self._last_plain > PLAIN_SECONDS):
            self._last_plain = now
            print(f"step {step}/{self.total_steps}  {self._describe(values, now)}", flush=True)

    def evaluation(self, step: int, metrics: dict[str, float]) -> None:
        """Takes in the validation after `step`; its time does not count as training's."""
        now = time.perf_counter()
        if self._last_call > -math.inf:
            self._window.excluded += now - self._last_call
        self._last_call = now
        if self.primary:
            self._write("validation", step, metrics)
            names = [
                name
                for name in ("loss", "accuracy", "perplexity", "pseudo_perplexity", "bits_per_byte")
                if name in metrics
            ]
            shown = names or list(metrics)
            self._say(f"step {step}  validation  " + "  ".join(f"{name} {metrics[name]:.4g}" for name in shown))

    def event(self, text: str, **fields: Any) -> None:
        """Shows and records something out of the ordinary."""
        if self.primary:
            self._append({"kind": "event", "step": self.step, "time": time.time(), "text": text, **fields})
            (self._bar.console.print if self._bar else print)(text)

    def close(self) -> None:
        if self._bar:
            self._bar.stop()
        for writer in self._writers:
            writer.close()
        if self._file:
            self._file.close()
        self._bar = self._file = None
        self._writers = []

    def _speed(self, now: float) -> dict[str, float]:
        window = self._window
        if not window.timed:
            return {}
        seconds = (now - window.start - window.excluded) / window.timed
        speed = {"tokens_per_second": self.tokens_per_step / seconds}
        if self.peak_flops:
            speed["mfu"] = self.flops_per_step / seconds / self.peak_flops
        return speed | {"seconds/step": seconds} | {f"seconds/{k}": v / window.timed for k, v in window.waits.items()}

    def _describe(self, values: dict[str, float], now: float) -> str:
        parts = [f"loss {values['loss']:.4f}"] if "loss" in values else []
        parts += [f"accuracy {values['accuracy']:.3f}"] if "accuracy" in values else []
        if "tokens_per_second" in values:
            parts.append(f"{_short(values['tokens_per_second'])} tokens/s")
        parts += [f"MFU {100 * values['mfu']:.0f}%"] if "mfu" in values else []
        first_step, first_time = self._first
        if self.step > first_step:
            left = (now - first_time) / (self.step - first_step) * (self.total_steps - self.step)
            parts.append(f"ETA {_clock(left)}")
        return "  ".join(parts)

    def _write(self, kind: str, step: int, values: dict[str, float]) -> None:
        # JSON has no NaN.
        clean = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._append({"kind": kind, "step": step, "time": time.time(), **clean})
        for writer in self._writers:
            writer.write(kind, step, values)

    def _append(self, record: dict[str, Any]) -> None:
        with disk_errors(Path(self._file.name).parent):
            self._file.write(json.dumps(record) + "\n")

    def _say(self, text: str) -> None:
        if self.config.progress:
            (self._bar.console.print if self._bar else print)(text)


class _Window:
    """The steps since the last line."""

    def __init__(self, start: float = math.nan):
        self.start, self.excluded = start, 0.0
        self.count = self.timed = 0
        self.sums: dict[str, tuple[float, int]] = {}  # of finite values, and how many
        self.waits: dict[str, float] = {}

    def add(self, metrics: dict[str, float]) -> None:
        self.count += 1
        for name, value in metrics.items():
            total, count = self.sums.get(name, (0.0, 0))
            if name in LAST_VALUE:
                self.sums[name] = (value, 1)
            elif math.isfinite(value):  # a step that was skipped does not hide the others
                self.sums[name] = (total + value, count + 1)
            else:
                self.sums[name] = (total, count)

    def time(self, timing: dict[str, float]) -> None:
        self.timed += 1
        for name, seconds in timing.items():
            self.waits[name] = self.waits.get(name, 0.0) + seconds

    def means(self) -> dict[str, float]:
        return {name: total / count if count else math.nan for name, (total, count) in self.sums.items()}


def read_metrics(workdir: str | Path, kind: str = "train") -> list[dict[str, Any]]:
    """The lines of one kind in metrics.jsonl, by step; None stands for a value that was not finite.

    Raises:
      UserError: no metrics.jsonl in `workdir`.
    """
    path = Path(workdir) / FILE
    if not path.is_file():
        raise UserError(f"There is no {path}: {workdir} is not the workdir of a run that has begun to train.")
    return [record for record in _records(path) if record["kind"] == kind]


def _records(path: Path) -> list[dict[str, Any]]:
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            pass  # a kill cut the line off
    return records


def _open_after(path: Path, step: int):
    """Opens a log for appending, without what a killed run wrote after `step`."""
    if path.exists():
        kept = [record for record in _records(path) if record["kind"] == "event" or record["step"] <= step]
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(record) + "\n" for record in kept))
        temporary.replace(path)
    return path.open("a", buffering=1)


def _short(value: float) -> str:
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


# Writers of optional packages.


def require(module: str, extra: str) -> types.ModuleType:
    """An optional dependency, or a UserError with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"{module} is not installed ({error}): pip install 'ptjax[{extra}]'") from None


class _TensorBoard:
    def __init__(self, workdir: Path, start_step: int):
        module = require("tensorboardX", "logging")
        self._writer = module.SummaryWriter(str(workdir / "tensorboard"), purge_step=start_step + 1)

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"{kind}/{name}", value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _WandB:
    def __init__(self, workdir: Path, project: str):
        module = require("wandb", "logging")
        path = workdir / "wandb.id"
        workdir.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_text(module.util.generate_id())
        settings = dict(id=path.read_text(), resume="allow", dir=str(workdir), name=workdir.name)
        self._run = module.init(project=project, **settings)

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        self._run.log({f"{kind}/{name}": value for name, value in values.items()}, step=step)

    def close(self) -> None:
        self._run.finish()


# The machine's peak.


@functools.cache
def measure_peak(dtype: str = "float32") -> float:
    """FLOP/s that matrix products reach on one device while all devices of this process work: MFU's denominator.

    The best over growing square sizes, about a second in all. With `XLA_FLAGS=--xla_force_host_platform_device_count`
    the devices share one processor, and each gets its share.
    """
    devices = jax.local_devices()
    repeats = 8

    @jax.jit
    def chain(x):
        return jax.lax.fori_loop(0, repeats, lambda _, y: y @ x, x)

    best, begin = 0.0, time.perf_counter()
    for size in (512, 1024, 2048, 4096, 8192):
        arrays = [jax.device_put(jnp.full((size, size), 1 / size, dtype), device) for device in devices]
        jax.block_until_ready([chain(x) for x in arrays])
        times = []
        for _ in range(3):
            start = time.perf_counter()
            jax.block_until_ready([chain(x) for x in arrays])
            times.append(time.perf_counter() - start)
        best = max(best, 2.0 * size**3 * repeats / statistics.median(times))
        # The next size takes 8 times as long.
        if time.perf_counter() - begin + 8 * 4 * times[-1] > 1.5:
            break
    return best
