"""Name tables: which tensors of a published checkpoint are which leaf of ours, in both directions.

A table lists every tensor by hand: nothing is guessed from a shape, so that what a table forgets is an error and not a
model that is nearly right.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Literal

import numpy as np

Layout = Literal["same", "linear", "conv1d", "flat", "table"]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One leaf of ours, and what it is made of there.

    ours: its path, "body/layers/attention/query/kernel". theirs: the tensor's name; with {layer} (and {expert}) in it
    there is a tensor for each index of our leading axis (axes).
    layers: the numbers that {layer} takes, in the order of our leading axis. experts: how many {expert} counts.
    layout: how a tensor lies there.
      same: as ours. flat: the same values in one axis (a bias of heads).
      linear: torch's [outputs, inputs], where our first `inputs` axes are the inputs: transposed.
      conv1d: GPT-2's [inputs, outputs].
      table: a row for each piece of the vocabulary, where ours has padding behind.
    part: (k, n): the leaf is the k-th of n equal parts of the tensor, along its axis of outputs.
    shape: theirs, of the whole tensor, where the layout does not tell (XLNet's [D, H, K]).
    """

    ours: str
    theirs: str
    layout: Layout = "same"
    inputs: int = 1
    part: tuple[int, int] = (0, 1)
    layers: tuple[int, ...] = ()
    experts: int = 0
    shape: tuple[int, ...] | None = None

    @property
    def top(self) -> str:
        """The part of our params that it belongs to: 'body', 'head', ..."""
        return self.ours.partition("/")[0]

    @property
    def stacked(self) -> int:
        """How many leading axes of ours count tensors."""
        return bool(self.layers) + bool(self.experts)

    def tensors(self) -> Iterator[tuple[tuple[int, ...], str]]:
        """(index into our leading axes, name there) of each tensor."""
        for (i, layer), expert in itertools.product(enumerate(self.layers or (0,)), range(self.experts or 1)):
            index = (i,) * bool(self.layers) + (expert,) * bool(self.experts)
            yield index, self.theirs.format(layer=layer, expert=expert)

    def shape_there(self, ours: tuple[int, ...], rows: int) -> tuple[int, ...]:
        """The shape of a whole tensor there. ours: of the leaf, leading axes left out. rows: of the vocabulary."""
        if self.shape is not None:
            return self.shape
        count = self.part[1]
        inputs, outputs = math.prod(ours[: self.inputs]), math.prod(ours[self.inputs :]) * count
        return {
            "same": ours if count == 1 else (ours[0] * count, *ours[1:]),
            "linear": (outputs, inputs),
            "conv1d": (inputs, outputs),
            "flat": (math.prod(ours) * count,),
            "table": (rows, *ours[1:]),
        }[self.layout]

    def ours_of(self, tensor: np.ndarray, ours: tuple[int, ...]) -> np.ndarray:
        """One tensor of theirs -> that part of our leaf; a table keeps its own number of rows."""
        k, count = self.part
        tensor = np.split(tensor, count, axis=self._outputs_axis)[k] if count > 1 else tensor
        if self.layout == "linear":
            tensor = tensor.reshape(tensor.shape[0], -1).T
        return tensor if self.layout == "table" else tensor.reshape(ours)

    def theirs_of(self, leaf: np.ndarray, rows: int) -> np.ndarray:
        """The inverse: one leaf of ours, leading axes left out -> its part of the tensor. rows: of the vocabulary."""
        if self.layout == "table":
            return leaf[:rows]
        if self.layout == "same":
            return leaf if self.shape is None else leaf.reshape(self.shape)
        if self.layout == "flat":
            return leaf.reshape(-1)
        matrix = leaf.reshape(math.prod(leaf.shape[: self.inputs]), -1)
        if self.layout == "conv1d":
            return matrix
        # A tensor of more axes is never one of several parts.
        return matrix.T if self.shape is None else matrix.T.reshape(self.shape)

    @property
    def _outputs_axis(self) -> int:
        return -1 if self.layout == "conv1d" else 0

    def join(self, parts: list[np.ndarray]) -> np.ndarray:
        """The whole tensor from `theirs_of` of all its entries, in order of their parts."""
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=self._outputs_axis)


@dataclasses.dataclass(frozen=True)
class Table:
    """Every tensor of a checkpoint.

    copies: name there -> name of the tensor whose values it repeats (tied projections). Where a file has it, it must
    agree; it is not written. buffers: regular expressions of tensors that are computed and not learned. unread: of
    those that are learned and of which nothing is made here, as transformers' class makes nothing of them.
    prefix: what stands before the body's names, and is left out where a body was saved alone ("bert.").
    """

    entries: tuple[Entry, ...]
    copies: dict[str, str] = dataclasses.field(default_factory=dict)
    buffers: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    prefix: str = ""

    def parts(self) -> tuple[str, ...]:
        """The top-level names of our leaves: 'body', 'head', 'pooler', ..."""
        return tuple(dict.fromkeys(entry.top for entry in self.entries))
