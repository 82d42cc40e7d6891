"""The nouns that everything shares. Shapes: B rows of a batch, L tokens of a row, D model width."""

from __future__ import annotations

from typing import Any

import jax
from flax import struct

Array = jax.Array
Batch = dict[str, Array]  # leading axis B; always 'index': i32[B], the example's id in its split, -1 for padding rows
Metrics = dict[str, tuple[Array, Array]]  # name -> (sum, weight), both f32[]; the value shown is sum / weight
PyTree = Any


@struct.dataclass
class Mask:
    """Who may attend to whom, as structure rather than as a dense matrix, so that fused kernels can use it.

    causal: each position sees itself and what precedes it (static).
    valid: bool[B, L], False at padding; None means that every position is real.
    segments: i32[B, L], the document of each position in a packed row; attention never crosses documents.
    prefix: bool[B, L], positions that their whole document sees, even where `causal`: the prefix of a prefix language
      model; a row of True is bidirectional, so that a batch can mix causal and masked rows.
    order: i32[B, L], rank in a permuted factorisation (XLNet): position l sees those s with order[s] <= order[l], and
      when it is asked as a target those with order[s] < order[l]. Context that all may see has one rank, 0.
    """

    causal: bool = struct.field(pytree_node=False, default=False)
    valid: Array | None = None
    segments: Array | None = None
    prefix: Array | None = None
    order: Array | None = None

    def __post_init__(self):
        # An array in a static field would pass silently and recompile at every step.
        if not isinstance(self.causal, bool):
            raise TypeError(f"Mask.causal is static: a Python bool, not {type(self.causal).__name__}")


@struct.dataclass
class TextInput:
    """What a text body reads. tokens, positions: i32[B, L]; types: i32[B, L] (BERT's sentence A or B) or None.

    targets: i32[B, P], positions that a two-stream body is to predict without seeing them (XLNet), or None.
    scattered: whether a document's tokens may stand apart in the row, its source here and its target there: then the
      distance of two of them is the difference of their `positions`, not of their places in the row (static).
    """

    tokens: Array
    positions: Array
    mask: Mask
    types: Array | None = None
    targets: Array | None = None
    scattered: bool = struct.field(pytree_node=False, default=False)


@struct.dataclass
class PairInput:
    """What an encoder-decoder reads. The decoder sees the encoder's positions of its own document (mask.segments)."""

    source: TextInput
    target: TextInput


@struct.dataclass
class Hidden:
    """What a text body returns.

    last: [B, L, D] in the compute dtype. state: what was given as state, brought up to date: a key-value cache or a
    `Memory`. queries: [B, P, D], the second stream at `TextInput.targets`, where there are any.
    """

    last: Array
    state: PyTree = None
    queries: Array | None = None


@struct.dataclass
class Memory:
    """What a body with segment recurrence keeps of the rows before (Transformer-XL); leading axis B, row by row.

    hidden: [B, N, M, D], the last M inputs of each of N layers. open: bool[B, M], those of the document that goes on
    at the end of the row: the next row sees them and no others. index: i32[B], the example that came last, -1 for none.
    """

    hidden: Array
    open: Array
    index: Array


@struct.dataclass
class Losses:
    """One microbatch's answer. The step minimises sum_k coefficient_k * totals_k / (global weight)_k.

    totals: term -> f32[], a sum over examples (never a mean).
    metrics: what is shown and never differentiated.
    memory: what the next microbatch of the same rows starts from, or None.
    """

    totals: dict[str, Array]
    metrics: Metrics
    memory: Memory | None = None


@struct.dataclass
class TrainState:
    """Everything that a run carries from one step to the next; the checkpoint is this and config.json.

    step: i32[], steps done. seed: u32[]: no random key is kept, keys come from (seed, step).
    hyper: f32[] values that may change without compiling again (learning_rate).
    params: {'body': ..., 'head': ...}, float32. opt_state: optax's. ema: averaged params, or None.
    guard: {'norm': f32[] running gradient norm, 'skipped': i32[]}, or None where no step is ever skipped.
    memory: of every row of the batch, or None for a body without.
    """

    step: Array
    seed: Array
    hyper: dict[str, Array]
    params: PyTree
    opt_state: PyTree
    ema: PyTree = None
    guard: dict[str, Array] | None = None
    memory: Memory | None = None

    @property
    def averaged(self) -> PyTree:
        """The parameters to evaluate: their average where one is kept."""
        return self.params if self.ema is None else self.ema
