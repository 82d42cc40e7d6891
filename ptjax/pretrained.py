"""What fine-tuning and likelihoods begin from: a run of ptjax, or a folder of a published model."""

import dataclasses
from pathlib import Path

from ptjax.checkpoint import read_config
from ptjax.config import UserError, from_json
from ptjax.data.prepared import Prepared
from ptjax.data.tokenizers import Tokenizer, open_tokenizer
from ptjax.models.base import TextModelConfig
from ptjax.objectives.base import Objective
from ptjax.tasks.base import Task
from ptjax.weights import TOKENIZER, Source, config_of


@dataclasses.dataclass(frozen=True, eq=False)
class Pretrained:
    """A folder of weights, looked at and not yet read.

    objective: what it has learned; None where the folder does not say. source: its weights.
    """

    folder: Path
    model: TextModelConfig
    objective: Objective | None
    tokenizer: Tokenizer
    source: Source

    @classmethod
    def open(cls, folder: str | Path) -> "Pretrained":
        """Raises UserError: neither the workdir of a run nor a Hugging Face folder; no tokenizer; no checkpoint."""
        folder, there = config_of(folder)
        if "" in there:
            config = from_json(read_config(folder))
            tokenizer = _tokenizer_of(folder, config)
        else:
            tokenizer = open_tokenizer(folder)
        source = Source.open(folder, tokenizer)
        objective = getattr(config, "objective", None) if "" in there else _published_objective(folder)
        return cls(folder, source.model, objective, tokenizer, source)

    @property
    def causal(self) -> bool:
        """Whether it has learned to look to the left only."""
        objective = self.objective
        if isinstance(objective, Task):
            return objective.attention == "causal"
        return objective is not None and objective.abilities() == ("sample",) and objective.decoding == "causal"


def _tokenizer_of(folder: Path, config) -> Tokenizer:
    if (folder / TOKENIZER).is_dir():
        return open_tokenizer(folder / TOKENIZER)
    if not hasattr(config, "data"):
        raise UserError(f"{folder} holds a {type(config).__name__} and no tokenizer: it is not the workdir of a run")
    return Prepared.open(config.data.corpus).tokenizer


def _published_objective(folder: Path) -> Objective | None:
    from ptjax.interop.published import look  # here: the loop knows no families

    return look(folder).objective
