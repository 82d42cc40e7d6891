"""A submission: a model that is fine-tuned on each task of a suite, or predictions that were handed in."""

import contextlib
import json
import re
from pathlib import Path
from typing import Any, Literal

import chz

from ptjax.checkpoint import CONFIG, read_config
from ptjax.config import Config, UserError, from_json
from ptjax.logging import FILE as METRICS
from ptjax.logging import read_metrics
from ptjax.pretrained import Pretrained
from ptjax.train import Experiment

Kind = Literal["model", "predictions"]


@chz.chz
class Submission(Config):
    """What takes part in a leaderboard, under a name."""

    name: str = chz.field(doc="in tables and names of folders: letters, digits, - and _")
    path: str = chz.field(doc="workdir of a run, Hugging Face folder, or folder of predictions")
    fresh: bool = chz.field(default=False, doc="the same body with random weights: what pre-training is held against")
    kind: Kind | None = chz.field(default=None, doc="what the folder holds; None: not looked at yet")

    @chz.validate
    def _named(self):
        if not re.fullmatch(r"[A-Za-z0-9][\w-]*", self.name, re.ASCII):
            raise ValueError(f"submission {self.name!r}: letters, digits, - and _, the first one no sign")

    @classmethod
    def parse(cls, text: str) -> "Submission":
        """Of NAME=PATH, or NAME=PATH:fresh. Raises UserError."""
        name, equals, path = text.partition("=")
        fresh = path.endswith(":fresh")
        path = path.removesuffix(":fresh")
        if not (equals and path):
            raise UserError(
                f"--submission={text}: write NAME=FOLDER, or NAME=FOLDER:fresh for its body without its weights"
            )
        try:
            return cls(name=name, path=path, fresh=fresh)
        except ValueError as error:
            raise UserError(f"--submission={text}: {error.__cause__ or error}") from None

    @property
    def folder(self) -> Path:
        return Path(self.path).expanduser()

    def found(self, before: Kind | None = None) -> "Submission":
        """With its kind, as its folder is now. Raises UserError: no such folder; another kind than `before`;
        predictions that are fresh."""
        if not self.folder.is_dir():
            raise UserError(f"submission {self.name}: there is no folder {self.path}")
        kind: Kind = "model" if (self.folder / CONFIG).is_file() else "predictions"
        if self.fresh and kind != "model":
            raise UserError(f"submission {self.name}: {self.path} has no {CONFIG}, so there is no body to begin afresh")
        if before is not None and kind != before:
            kinds = {"model": "a model", "predictions": "predictions"}
            raise UserError(
                f"submission {self.name}: it is {kinds[before]} on this board, and {self.path} holds {kinds[kind]}: "
                "submit that under another name"
            )
        return chz.replace(self, kind=kind)

    def described(self) -> dict[str, str]:
        """All that is known of how it was made, key by key, as text."""
        about = {"path": self.path}
        if self.kind != "model":
            return about
        try:
            plain = as_text((self.folder / CONFIG).read_text(encoding="utf-8"))
        except (OSError, ValueError, AttributeError):  # fine-tuning will say what is wrong with it
            return about
        return about | {"fresh": str(self.fresh)} | plain

    def weights(self) -> dict[str, Any] | None:
        """Which its folder has now, {'step', 'sha256'} as runs record those they begin from; None where none can be
        read, or none are used."""
        if self.fresh:
            return None
        with contextlib.suppress(UserError, OSError, LookupError, TypeError, ValueError, AttributeError):
            source = Pretrained.open(self.folder).source
            return {"step": source.step, "sha256": source.sha256}
        return None

    def pretraining(self) -> dict[str, Any] | None:
        """Its cost and its course, where it is a run of ptjax with a log."""
        if self.fresh or not (self.folder / METRICS).is_file():
            return None
        # Half of a run, a damaged one, or one whose corpus is gone.
        with contextlib.suppress(UserError, OSError, LookupError, TypeError, ValueError, AttributeError):
            experiment = from_json(read_config(self.folder), Experiment)
            steps = max((record["step"] for record in read_metrics(self.folder)), default=0)
            curve = [
                [r["step"], r["loss"]] for r in read_metrics(self.folder, "validation") if r.get("loss") is not None
            ]
            vocab = Pretrained.open(self.folder).tokenizer.vocab
            return {
                "steps": steps,
                "tokens": steps * experiment.tokens_per_step(),
                "flops": steps * experiment.flops_per_step(vocab),
                "objective": type(experiment.objective).__name__,
                "curve": curve,
            }
        return None


def as_text(config_json: str) -> dict[str, str]:
    """A config's JSON key by key, for people. Raises ValueError or AttributeError where it is no object."""
    flat = json.loads(config_json)
    return {key: _text(value) for key, value in flat.items() if key and not isinstance(value, dict)}


def _text(value: Any) -> str:
    """A class without its module."""
    if isinstance(value, str):
        return value.rpartition(":")[2] if re.fullmatch(r"[\w./-]+:[A-Za-z_][\w.]*", value) else value
    return json.dumps(value, ensure_ascii=False)
