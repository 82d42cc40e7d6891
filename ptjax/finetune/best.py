"""The best model of a workdir, kept whole: config, tokenizer and parameters, which `Pretrained.open` reads."""

import json
import math
import shutil
from pathlib import Path

import chz

from ptjax.checkpoint import Checkpoints, agree, disk_errors, is_primary
from ptjax.config import to_json
from ptjax.data.examples.base import NoExamples
from ptjax.data.tokenizers import Tokenizer
from ptjax.finetune.cells import BEST, Cell, write_json
from ptjax.finetune.config import FineTuned
from ptjax.models.base import TextModelConfig
from ptjax.tasks.base import Task
from ptjax.tasks.tuning import Full
from ptjax.types import PyTree
from ptjax.weights import TOKENIZER

NOTE = "best.json"  # which run it is, and its validation headline


class Best:
    """What a workdir keeps of all runs it ever had, those of other rates and seeds too."""

    def __init__(self, workdir: Path):
        self.folder, self._old = workdir / BEST, workdir / f"{BEST}.old"
        if is_primary() and self._old.is_dir():  # stopped while it was being replaced
            if not self.folder.is_dir():
                self._old.rename(self.folder)
            shutil.rmtree(self._old, ignore_errors=True)

    def note(self) -> dict | None:
        """{'cell': its name, 'validation': its headline}; None where nothing is kept."""
        try:
            return json.loads((self.folder / NOTE).read_text())
        except (OSError, ValueError):
            return None

    def beaten_by(self, score: float) -> bool:
        """Whether it is worse; the same on every process."""
        note = self.note()
        return bool(agree(score > (note["validation"] if note else -math.inf)))

    def replace(
        self,
        cell: Cell,
        score: float,
        step: int,
        model: TextModelConfig,
        task: Task,
        tokenizer: Tokenizer,
        params: PyTree,
    ) -> None:
        """All processes call it. params: of the net without what `Task.tuning` adds."""
        # What a model knows of its task is how to answer; files of examples may be gone where it is opened.
        config = FineTuned(model=model, objective=chz.replace(task, tuning=Full(), examples=NoExamples()))
        new = self.folder.with_name(f"{BEST}.tmp")
        with disk_errors(new):
            if is_primary():
                shutil.rmtree(new, ignore_errors=True)
            agree(0)
            checkpoints = Checkpoints(new / "checkpoints", keep=1, asynchronous=False)
            checkpoints.save(step, {"params": params}, config_json=to_json(config))
            checkpoints.close()
            if is_primary():
                (new / TOKENIZER).mkdir()
                for name, data in tokenizer.files().items():
                    (new / TOKENIZER / name).write_bytes(data)
                (new / "config.json").write_text(to_json(config))
                write_json(new / NOTE, {"cell": cell.name, "validation": score})
                if self.folder.is_dir():
                    self.folder.rename(self._old)
                new.rename(self.folder)
                shutil.rmtree(self._old, ignore_errors=True)
            agree(0)
