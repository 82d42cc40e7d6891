"""A submission on one task: a fine-tuning with a workdir of its own."""

import contextlib
import dataclasses
import itertools
import json
from pathlib import Path
from statistics import fmean
from typing import Any

from ptjax.checkpoint import CONFIG, check_owner, check_workdir, read_config
from ptjax.config import UserError, from_json, to_json
from ptjax.finetune import FineTuning, cells
from ptjax.finetune.cells import CELL, CELLS, ERROR, RESULT, Cell, CellFolder, selected_rate
from ptjax.finetune.run import MAY_CHANGE
from ptjax.leaderboard.entry import Result, Run
from ptjax.jobs import Commands, Job, keep_problem, locked
from ptjax.leaderboard.lines import read_lines
from ptjax.leaderboard.predictions import read_predictions
from ptjax.leaderboard.references import References


class Damaged(UserError):
    """A file of ours that cannot be read any more."""


@dataclasses.dataclass(frozen=True, eq=False)
class Unit:
    """What is run at once. folder: the workdir of the fine-tuning."""

    submission: str
    config: FineTuning
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.submission}/{self.config.task.name}"

    def cells(self) -> list[Cell]:
        if self.config.task.zero_shot:
            return [Cell()]
        recipe = self.config.recipe
        return list(itertools.starmap(Cell, itertools.product(recipe.learning_rates, recipe.seeds)))

    def cells_done(self) -> list[Cell]:
        return [cell for cell in self.cells() if CellFolder.of(self.folder, cell).done]

    @property
    def kind(self) -> str:
        return "fine-tuning"

    @property
    def size(self) -> int:
        """Of a progress bar."""
        return len(self.cells())

    @property
    def done(self) -> int:
        return len(self.cells_done())

    def is_done(self) -> bool:
        """Whether nothing is left to run: every cell of this very config."""
        whole = (self.folder / RESULT).is_file() and len(self.cells_done()) == len(self.cells())
        return whole and self._is_of_config()

    def _is_claimed(self) -> bool:
        config = self.folder / CONFIG
        return config.is_file() and config.read_bytes() == to_json(self.config).encode()

    def _is_of_config(self) -> bool:
        """Also where the model has moved: cells know which weights they began from."""
        without = lambda text: json.loads(text) | {"init_from": None}  # noqa: E731
        with contextlib.suppress(OSError, ValueError, TypeError):
            return without((self.folder / CONFIG).read_text(encoding="utf-8")) == without(to_json(self.config))
        return False

    def claim(self) -> None:
        """Makes its folder that of its config. Raises UserError: cells of another one are there; a process runs another
        one."""
        if self._is_claimed():
            return
        self.check()
        log = locked(self._log) if self._log.is_file() else contextlib.nullcontext()
        with log, cells.locked(self.folder):
            check_workdir(self.folder, self.config, MAY_CHANGE, lambda _: self._has_cells())

    def check(self) -> None:
        """Raises UserError where cells of another config are there, Damaged where that cannot be told."""
        if self._has_cells() and not self._is_claimed():
            try:
                from_json(read_config(self.folder))
            except (UserError, ValueError) as error:
                raise Damaged(f"{self.folder / CONFIG} is damaged: {error}") from None
            check_owner(self.folder, self.config, MAY_CHANGE)

    def _has_cells(self) -> bool:
        return any(self.folder.glob(f"{CELLS}/*/{CELL}"))

    @property
    def _log(self) -> Path:
        return self.folder / "log.txt"

    def job(self, commands: Commands) -> Job:
        return Job(self.name, (*commands.finetune, f"--workdir={self.folder}"), self._log)

    def ended(self, problem: str | None) -> None:
        """Keeps what stopped it as a whole."""
        keep_problem(self.folder / ERROR, problem)

    def validation(self) -> float:
        """The headline on validation: the mean over seeds of the selected rate."""
        done = {cell: CellFolder.of(self.folder, cell).read() for cell in self.cells_done()}
        metric = self.config.task.metric
        rate = selected_rate(done, metric)
        return fmean(cell["scores"]["validation"][metric] for cell in done.values() if cell["learning_rate"] == rate)

    def begun_from(self) -> list[dict[str, Any]]:
        """The weights, each once, that runs which are done began from: {'step', 'sha256'}."""
        cells = [CellFolder.of(self.folder, cell).read().get("source") for cell in self.cells_done()]
        return [source for place, source in enumerate(cells) if source and source not in cells[:place]]

    def failed(self) -> dict[str | None, str]:
        """Cell -> error, of those that are not done; None: the whole of it, where no cell says more."""
        folders = {cell.name: CellFolder.of(self.folder, cell) for cell in self.cells()}
        found = {name: _text(folder.path / ERROR) for name, folder in folders.items() if not folder.done}
        found = {name: error for name, error in found.items() if error}
        whole = None if self.is_done() else _text(self.folder / ERROR)
        return found or ({None: whole} if whole else {})

    def cost(self) -> dict[str, float]:
        """Of all cells, those of rates that were not selected too."""
        done = [CellFolder.of(self.folder, cell).read() for cell in self.cells_done()]
        cost = {key: sum(cell[key] for cell in done) for key in ("flops", "tokens", "seconds")}
        if (self.folder / RESULT).is_file():
            result = json.loads((self.folder / RESULT).read_text())
            cost |= {key: result[key] for key in ("parameters", "learning_parameters")}
        return cost

    def read(self, references: References) -> Result | None:
        """What the selected rate's runs have come to; None where there are none, or some are still to come. Predictions
        to hand in are of the test split where there is one.

        Raises UserError: files that are not what fine-tuning has written, or of other examples.
        """
        self.check()
        done = {cell: CellFolder.of(self.folder, cell).read() for cell in self.cells_done()}
        if not done or {cell.name for cell in self.cells()} - {cell.name for cell in done} - set(self.failed()):
            return None
        metric = self.config.task.metric
        rate = None if self.config.task.zero_shot else selected_rate(done, metric)
        selected = [cell for cell in self.cells() if cell.learning_rate == rate]
        split = "test" if "test" in references.counts else references.split
        runs, predictions = [], {}
        for cell in [cell for cell in selected if cell in done]:
            folder = CellFolder.of(self.folder, cell).path
            runs.append(Run.scored(read_predictions(folder / f"{references.split}.jsonl", references), references))
            predictions[cell.seed or 0] = [answer for _, answer in read_lines(folder / f"{split}.jsonl")]
        grid = [
            [c.learning_rate, c.seed, contents["scores"].get("validation", {}).get(metric)]
            for c, contents in done.items()
        ]
        curves = [_curve(contents) for contents in done.values()]
        return Result(runs, len(selected), rate, [] if rate is None else grid, curves, predictions)


def _curve(cell: dict[str, Any]) -> dict[str, Any]:
    return {key: cell[key] for key in ("learning_rate", "seed", "loss", "validation")}


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None
