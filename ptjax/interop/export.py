"""A run's weights as a folder of Hugging Face's, however large: no more of them in memory than is being written."""

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from ptjax.checkpoint import Saved, read_config
from ptjax.config import from_json
from ptjax.data.prepared import Prepared
from ptjax.data.tokenizers import Tokenizer
from ptjax.embed import POOLING, Pooling
from ptjax.interop.huggingface import Written, family_of, save
from ptjax.interop.sentences import write_pooling
from ptjax.models.base import TextModelConfig
from ptjax.objectives import UL2, CausalLM, Hybrid, Objective, PrefixLM, SpanCorruption
from ptjax.train import Experiment
from ptjax.types import PyTree


# Objectives that read a part in both directions and look left only in the rest.
PARTLY = (Hybrid, PrefixLM, SpanCorruption, UL2)


@dataclasses.dataclass(frozen=True)
class OnDisk:
    """A leaf of a checkpoint, which `np.asarray` reads anew each time: nothing of it is kept."""

    saved: Saved
    field: str
    path: str
    shape: tuple[int, ...]
    dtype: np.dtype

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        host = jax.sharding.SingleDeviceSharding(_host())
        leaf = jax.ShapeDtypeStruct(self.shape, self.dtype, sharding=host)
        (read,) = jax.tree.leaves(self.saved.read(traverse_util.unflatten_dict({self.path: leaf}, sep="/"), self.field))
        return np.asarray(read, dtype)


def _host() -> jax.Device:
    """The CPU, or the first device where jax was told of no CPU (JAX_PLATFORMS=cuda)."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]


def on_disk(saved: Saved, field: str = "params") -> PyTree:
    """The parameters of a checkpoint as a tree of `OnDisk`s."""
    leaves = traverse_util.flatten_dict(saved.shapes(field), sep="/")
    tree = {path: OnDisk(saved, field, path, tuple(x.shape), np.dtype(x.dtype)) for path, x in leaves.items()}
    return traverse_util.unflatten_dict(tree, sep="/")


@dataclasses.dataclass(frozen=True)
class Exported:
    """step: of the checkpoint. rows: of the vocabulary, of `ids` that the model has. files: of the tokenizer, and of
    sentence-transformers where the workdir says how texts become vectors. note: what transformers' class does otherwise
    than the model was trained to, or ""."""

    written: Written
    step: int
    rows: int
    ids: int
    files: tuple[str, ...]
    note: str


def export_workdir(
    workdir: str | Path,
    folder: str | Path,
    *,
    step: int | None = None,
    dtype: str = "float32",
    only: Collection[str] | None = None,
    added: bool = False,
) -> Exported:
    """Writes a checkpoint of a run, or its average of the parameters where it keeps one, with its tokenizer.

    Args:
      step: None for the last good one.
      dtype, only: as `save` has them.
      added: with the ids that a published tokenizer lacks (mask, pad) and that are the objective's own (sentinels).

    Raises:
      UserError: no such run or step, and what `save` raises.
    """
    workdir = Path(workdir).expanduser()
    experiment = from_json(read_config(workdir), Experiment)
    tokenizer = Prepared.open(experiment.data.corpus).tokenizer
    vocab = experiment.objective.vocabulary(tokenizer.vocab)
    saved = Saved.find(workdir / "checkpoints", step)
    params = on_disk(saved, "params" if experiment.ema is None else "ema")
    rows = vocab.size if added else vocab.rows
    described, files = special_ids(tokenizer, rows), []
    if "pairs" in experiment.model.offers:
        described["decoder_start_token_id"] = described.get("pad_token_id")
    pooling = Pooling.of_workdir(workdir) if (workdir / POOLING).is_file() else None

    def beside(folder: Path) -> None:
        files.extend(tokenizer.export(folder, added=added))
        if pooling:
            files.extend(write_pooling(folder, pooling, experiment.model.width))

    written = save(
        folder,
        experiment.model,
        params,
        rows=rows,
        dtype=dtype,
        only=only,
        described=described,
        objective=experiment.objective,
        beside=beside,
    )
    last = experiment.objective.stages(experiment.steps)[-1].objective
    note = direction(experiment.model, last)
    return Exported(written, saved.step, rows, vocab.size, tuple(files), note)


def direction(model: TextModelConfig, objective: Objective) -> str:
    """Where transformers' class lets tokens look otherwise than `objective` did: what to know of it, or ""."""
    family = family_of(model)
    usual = family.objective(frozenset(family.table(model).parts()))
    if "pairs" in model.offers or type(objective) is type(usual):
        return ""
    kinds = {type(part) for part in objective.parts()}
    looks_left, is_left = kinds == {CausalLM}, isinstance(usual, CausalLM)
    if looks_left and not is_left:
        return f"trained to look left only; transformers' {family.model_type} reads in both directions"
    if is_left and kinds.isdisjoint({CausalLM, *PARTLY}):
        return f"trained to read in both directions; transformers' {family.model_type} looks left only"
    if not kinds.isdisjoint({CausalLM, *PARTLY}) and not looks_left:
        there = "looks left only" if is_left else "always reads in both directions"
        return f"trained to look left only and to read in both directions; transformers' {family.model_type} {there}"
    return ""


def special_ids(tokenizer: Tokenizer, rows: int) -> dict[str, int | None]:
    """What config.json says of special tokens: None for those that are not among the first `rows` ids."""
    roles = getattr(tokenizer, "roles", None)  # of a published one, which may lack some
    has = lambda role: roles is None or role in roles.named or roles.ids[role] >= roles.rows
    ids = {role: getattr(tokenizer.vocab, f"{role}_id") for role in ("bos", "eos", "pad")}
    return {f"{role}_token_id": i if has(role) and i < rows else None for role, i in ids.items()}
