"""What a likelihood is: questions about a text, whose answers' log-probabilities are summed."""

import dataclasses
import functools
from collections.abc import Iterator

import chz
import numpy as np

from ptjax.config import Config
from ptjax.data.tokenizers import Tokenizer, VocabSpec
from ptjax.objectives.base import Objective

Ids = tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Text:
    """A text as the model reads it. tokens: int32[n], framed; tokens[begin:end] are its own."""

    tokens: np.ndarray
    begin: int
    end: int


@dataclasses.dataclass(frozen=True, eq=False)
class Question:
    """What one row is asked.

    tokens: int32[n], as they are shown. at: int32[p], the positions whose states answer. labels: int32[p], what is the
    right answer there. order: int32[n], ranks as in `Mask.order`, or None; with it the answers are those of queries at
    the positions. decoder: int32[t], what a decoder reads, or None; with it the answers are those of its states. All
    questions of a likelihood are of one kind. weight: with which the log-probabilities count.
    """

    tokens: np.ndarray
    at: np.ndarray
    labels: np.ndarray
    order: np.ndarray | None = None
    decoder: np.ndarray | None = None
    weight: float = 1.0


@chz.chz
class Likelihood(Config):
    """Base. The score of a text is the sum, over its questions, of weight x sum log p(label), in nats."""

    def accepts(self, objective: Objective) -> bool:
        """Whether a model that has learned this, which is not put together from others, can be asked so."""
        raise NotImplementedError

    @property
    def causal(self) -> bool:
        """Whether states see only what stands before them."""
        return False

    @property
    def single(self) -> bool:
        """Whether every question asks for one token."""
        return False

    def room(self, objective: Objective) -> int:
        """Positions that a question may take beyond its text's."""
        return 0

    def framing(self, tokenizer: Tokenizer, published: bool) -> tuple[Ids, Ids]:
        """Ids before and behind the text. published: whether the model was trained elsewhere."""
        return tokenizer.framing

    def questions(self, text: Text, objective: Objective, vocab: VocabSpec) -> Iterator[Question]:
        """objective: one that it accepts."""
        raise NotImplementedError


@functools.lru_cache(maxsize=1024)
def noise(row: int, count: int) -> np.ndarray:
    """f64[count] in [0, 1), always the same, of which fewer are the first of more: texts that begin alike are asked
    alike (common random numbers), so that a difference of two scores has little noise."""
    return np.random.default_rng(row).random(count)


def ranks(row: int, count: int) -> np.ndarray:
    """int64[count]: 0 to count - 1 in a random order, always the same."""
    return np.argsort(np.argsort(noise(row, count)))
