"""Texts as vectors: the states of a body, pooled."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import chz
import jax
import jax.numpy as jnp
import numpy as np

from ptjax.config import Config, UserError, from_json
from ptjax.data.sizes import power_of_two
from ptjax.data.tokenizers import Tokenizer
from ptjax.models.base import TextModelConfig
from ptjax.models.heads import language_model
from ptjax.train import Run
from ptjax.types import Array, Mask, PyTree, TextInput
from ptjax.weights import POOLING

_TOKENS = 4096  # of a batch, padding included
_SHORTEST = 16  # tokens of a row, as compiled: this, or twice that, or twice that, ...


@chz.chz
class Pooling(Config):
    """How the last states of a text's tokens, with those that frame it ([CLS], [SEP], </s>), become one vector."""

    pool: Literal["mean", "cls", "last"] = chz.field(default="mean", doc="of all tokens, the first one, the last one")
    normalise: bool = chz.field(default=True, doc="to length 1, so that a scalar product is the cosine")
    length: int | None = chz.field(default=None, doc="tokens that are read of a text; None: as many as fit")

    @chz.validate
    def _positive(self):
        if self.length is not None and self.length < 1:
            raise ValueError(f"pooling.length must be at least 1, not {self.length}")

    @classmethod
    def of_workdir(cls, workdir: str | Path) -> "Pooling":
        """As it was published with the weights of a workdir; the defaults where nothing was."""
        path = Path(workdir) / POOLING
        return from_json(path.read_text(), cls) if path.is_file() else cls()


@dataclasses.dataclass(frozen=True, eq=False)
class Embedder:
    """A body with its weights and tokenizer. causal: whether it has learned to look to the left only."""

    model: TextModelConfig
    net: object
    params: PyTree
    tokenizer: Tokenizer
    pooling: Pooling
    causal: bool

    @classmethod
    def of_workdir(
        cls, run: Run, workdir: str | Path, step: int | None = None, pooling: Pooling | None = None
    ) -> "Embedder":
        """The last good checkpoint of a workdir, or the one of `step`; of its parameters the body alone.
        pooling: None for the workdir's. Raises UserError: no checkpoint; a body that does not read a text by itself."""
        model, objective = run.experiment.model, run.experiment.objective
        if "text" not in model.offers:
            raise UserError(f"{type(model).__name__} reads pairs of texts: only a body that offers text can embed one")
        params = run.restore_params(workdir, step, only=("body",))
        # Who only continues text has never seen what follows; all others have learned to read it.
        causal = objective.abilities() == ("sample",) and objective.decoding == "causal"
        net = language_model(model, run.learner.vocab.size, transform=False, bias=False)
        return cls(model, net, params, run.tokenizer, pooling or Pooling.of_workdir(workdir), causal)

    @property
    def length(self) -> int:
        """Tokens of the longest text that is read whole, those that frame it included."""
        return min(self.pooling.length or self.model.max_length, self.model.max_length)

    def encode(self, text: str) -> np.ndarray:
        """int32[n]: ids as the body reads them, framed; the end of a long text is left out."""
        return self._framed(self.tokenizer.encode(text))

    def _framed(self, ids: np.ndarray) -> np.ndarray:
        frame = len(self.tokenizer.frame(ids[:0]))
        return self.tokenizer.frame(ids[: max(self.length - frame, 0)])

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """f32[N, D]. Texts of similar length share a batch, and lengths are rounded up to few, so that little is
        compiled. Raises UserError for a text without tokens."""
        rows = [self._framed(ids) for ids in self.tokenizer.encode_batch(list(texts))]
        for text, ids in zip(texts, rows):
            if not len(ids):
                raise UserError(f"{text!r} has no tokens, and this tokenizer puts none around it: give at least a word")
        result = np.zeros((len(rows), self.model.width), np.float32)
        groups: dict[int, list[int]] = {}
        for i, ids in enumerate(rows):
            groups.setdefault(min(power_of_two(len(ids), _SHORTEST), self.model.max_length), []).append(i)
        for length, members in groups.items():
            most = max(_TOKENS // length, 1)
            for start in range(0, len(members), most):
                some = members[start : start + most]
                tokens = np.full((min(power_of_two(len(some)), most), length), self.tokenizer.vocab.pad_id, np.int32)
                sizes = np.ones(len(tokens), np.int32)  # a row that fills up is not empty: nothing is divided by 0
                for row, i in enumerate(some):
                    tokens[row, : len(rows[i])], sizes[row] = rows[i], len(rows[i])
                out = _pooled(self.net, self.pooling.pool, self.causal, self.params, tokens, sizes)
                result[some] = np.asarray(out, np.float32)[: len(some)]
        if self.pooling.normalise:
            result /= np.maximum(np.linalg.norm(result, axis=1, keepdims=True), 1e-12)
        return result


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _pooled(net, pool: str, causal: bool, params: PyTree, tokens_BL: Array, size_B: Array) -> Array:
    """f32[B, D]"""
    index_L = jnp.arange(tokens_BL.shape[1])
    valid_BL = index_L < size_B[:, None]
    inputs = TextInput(tokens_BL, jnp.broadcast_to(index_L, tokens_BL.shape), Mask(causal=causal, valid=valid_BL))
    h_BLD = net.apply({"params": params}, inputs, method="hidden").last.astype(jnp.float32)
    if pool == "cls":
        return h_BLD[:, 0]
    if pool == "last":
        return jnp.take_along_axis(h_BLD, size_B[:, None, None] - 1, axis=1)[:, 0]
    return jnp.sum(h_BLD * valid_BL[..., None], axis=1) / size_B[:, None]
