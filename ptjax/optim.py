"""Optimizers and schedules through optax, at unit learning rate.

`Optimizer.transform` gives a descent direction d; the training step does

    params -= hyper['learning_rate'] * optimizer.factor(step, total_steps) * d

so the peak rate is an array in the train state: another rate does not recompile, and runs can be vmapped over it.
Weight decay is part of d, hence scaled by the rate (as in PyTorch), and touches matrices and embedding tables only.
"""

import abc
import math
from typing import Literal

import chz
import jax
import jax.numpy as jnp
import optax
from optax import contrib

from ptjax.config import Config, UserError
from ptjax.nn.linear import kernel_axes, stacked


# Schedules: the rate as a fraction of its peak.


def _steps(amount: float, total: int) -> float:
    """`amount` is a number of steps, or, below 1, a fraction of `total`."""
    return amount * total if amount < 1 else amount


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


@chz.chz
class Schedule(Config, abc.ABC):
    """Linear warm-up, then `decay`. Step s of the warm-up of w runs at (s + 1) / (w + 1): step w is the first at 1."""

    warmup: float = chz.field(default=0.01, doc="linear warm-up: a number of steps or, below 1, a fraction of all")

    @chz.validate
    def _check_warmup(self):
        _require(self.warmup >= 0, f"schedule.warmup={self.warmup}: must not be negative")

    def factor(self, step: jax.Array, total_steps: int) -> jax.Array:
        """f32[] in [0, 1] for update number `step` (i32[], from 0) of a run of `total_steps`."""
        step = jnp.asarray(step, jnp.float32)
        warmup = _steps(self.warmup, total_steps)
        return jnp.minimum((step + 1) / (warmup + 1), self.decay(step, warmup, float(total_steps)))

    @abc.abstractmethod
    def decay(self, step: jax.Array, warmup: float, total: float) -> jax.Array:
        """f32[]: the factor without its warm-up, at most 1; `step` f32[], `warmup` and `total` in steps."""


def _progress(step, start: float, end: float) -> jax.Array:
    return jnp.clip((step - start) / max(end - start, 1.0), 0.0, 1.0)


@chz.chz
class Constant(Schedule):
    """The peak rate to the end."""

    def decay(self, step, warmup, total):
        return jnp.ones_like(step)


@chz.chz
class Linear(Schedule):
    """A straight line from the end of the warm-up to the end of the run (BERT)."""

    final: float = chz.field(default=0.0, doc="fraction of the peak rate that the last step approaches")

    @chz.validate
    def _check_final(self):
        _require(0 <= self.final <= 1, f"schedule.final={self.final}: must be a fraction from 0 to 1 of the peak rate")

    def decay(self, step, warmup, total):
        return 1 - (1 - self.final) * _progress(step, warmup, total)


@chz.chz
class Cosine(Linear):
    """Half a cosine from the end of the warm-up to the end of the run (Loshchilov and Hutter 2017; GPT-3)."""

    def decay(self, step, warmup, total):
        return self.final + (1 - self.final) * 0.5 * (1 + jnp.cos(jnp.pi * _progress(step, warmup, total)))


@chz.chz
class WSD(Linear):
    """Warm-up, stable, decay: constant, then down over the last steps (Hu et al. 2024; Hagele et al. 2024).

    What comes before the cool-down does not depend on the run's length, so one long run serves many budgets.
    """

    cooldown: float = chz.field(default=0.2, doc="the decay at the end: a number of steps or, below 1, a fraction")
    shape: Literal["linear", "1-sqrt"] = chz.field(default="linear", doc="of the decay; 1-sqrt is steeper at first")

    @chz.validate
    def _check_cooldown(self):
        _require(self.cooldown >= 0, f"schedule.cooldown={self.cooldown}: must not be negative")

    def decay(self, step, warmup, total):
        start = max(total - _steps(self.cooldown, total), warmup)
        if self.shape == "linear":
            return super().decay(step, start, total)
        return 1 - (1 - self.final) * jnp.sqrt(_progress(step, start, total))


@chz.chz
class InverseSqrt(Schedule):
    """sqrt((warmup + 1) / (step + 1)) after the warm-up (Vaswani et al. 2017; T5)."""

    def decay(self, step, warmup, total):
        return jnp.sqrt((warmup + 1) / jnp.maximum(step + 1, warmup + 1))


# Which leaf is treated how, by its path in the parameter tree.


def _names(path) -> tuple[str, ...]:
    return tuple(key.key for key in path)


def _rank(path, leaf) -> int:
    return leaf.ndim - stacked(_names(path))


def decayed(params):
    """A tree of bools: which leaves have weight decay.

    Matrices and embedding tables, as in BERT (google-research/bert, optimization.py) and GPT-2 (nanoGPT); no bias, no
    norm's scale, nothing else that is a vector in its layer.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: _rank(path, leaf) >= 2 and not _names(path)[-1].endswith(("bias", "scale")), params
    )


def _is_hidden_matrix(path, leaf) -> bool:
    names = _names(path)
    return names[0] == "body" and names[-1] == "kernel" and "embed" not in names and _rank(path, leaf) >= 2


def _matrix_axes(path, leaf) -> contrib.MuonDimensionNumbers:
    """Which axes of a kernel are the rows and columns of a matrix."""
    _, inputs, outputs = kernel_axes(_names(path), leaf.ndim)
    return contrib.MuonDimensionNumbers(inputs, outputs)


def _matrix_shape(path, leaf) -> tuple[int, int]:
    axes = _matrix_axes(path, leaf)
    return tuple(math.prod(leaf.shape[axis] for axis in group) for group in axes)


# Optimizers.


@chz.chz
class Optimizer(Config, abc.ABC):
    """A base; subclasses say by `direction` which way is down."""

    peak_lr: float = chz.field(default=1e-3, doc="learning rate where the schedule is 1")
    schedule: Schedule = chz.field(
        default_factory=Linear,
        meta_factory=chz.factories.subclass(Schedule, Linear),
        doc="the rate over the run: Constant, Linear, Cosine, WSD or InverseSqrt",
    )
    weight_decay: float = chz.field(default=0.01, doc="decay of matrices and embeddings a step, times the rate")
    clip: float | None = chz.field(default=1.0, doc="largest global norm of the gradient; None: no clipping")

    @chz.validate
    def _check(self):
        _require(self.peak_lr > 0, f"optimizer.peak_lr={self.peak_lr}: must be above 0")
        _require(self.weight_decay >= 0, f"optimizer.weight_decay={self.weight_decay}: must not be negative")
        _require(
            self.clip is None or self.clip > 0,
            f"optimizer.clip={self.clip}: must be above 0; optimizer.clip=None turns clipping off",
        )

    def hyper(self) -> dict[str, jax.Array]:
        """What the train state carries so that changing it does not recompile."""
        return {"learning_rate": jnp.float32(self.peak_lr)}

    def factor(self, step: jax.Array, total_steps: int) -> jax.Array:
        """f32[]: the schedule's fraction of the peak rate at `step` (i32[], from 0) of `total_steps`."""
        return self.schedule.factor(step, total_steps)

    def transform(self, params) -> optax.GradientTransformation:
        """From gradients to a descent direction at learning rate 1, to be subtracted.

        Args:
          params: nested dict of arrays or ShapeDtypeStructs; only paths and shapes are read.
        """
        clip = optax.identity() if self.clip is None else optax.clip_by_global_norm(self.clip)
        return optax.chain(clip, *self.direction(params))

    @abc.abstractmethod
    def direction(self, params) -> tuple[optax.GradientTransformation, ...]:
        """Transformations to chain, after clipping and before the rate."""

    def _decay(self, params) -> optax.GradientTransformation:
        return optax.add_decayed_weights(self.weight_decay, mask=decayed(params))


@chz.chz
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    b1: float = chz.field(default=0.9, doc="decay of the mean gradient")
    b2: float = chz.field(default=0.999, doc="decay of the mean squared gradient")
    eps: float = chz.field(default=1e-8, doc="added to the root of the mean squared gradient")

    def direction(self, params):
        return optax.scale_by_adam(self.b1, self.b2, self.eps), self._decay(params)


@chz.chz
class LAMB(Optimizer):
    """Adam with a trust ratio a layer, for large batches (You et al. 2020).

    Biases and norms have neither weight decay nor a trust ratio, as in the authors' code.
    """

    peak_lr: float = chz.field(default=2e-3, doc="learning rate where the schedule is 1")
    b1: float = chz.field(default=0.9, doc="decay of the mean gradient")
    b2: float = chz.field(default=0.999, doc="decay of the mean squared gradient")
    eps: float = chz.field(default=1e-6, doc="added to the root of the mean squared gradient")

    def direction(self, params):
        return optax.scale_by_adam(self.b1, self.b2, self.eps), self._decay(params), _trust_ratio()


def _trust_ratio() -> optax.GradientTransformation:
    one_layer = optax.scale_by_trust_ratio()

    def scale(path, update, param, trusted):
        if not trusted:
            return update
        ratio = lambda update, param: one_layer.update(update, optax.EmptyState(), param)[0]
        for _ in range(stacked(_names(path))):
            ratio = jax.vmap(ratio)
        return ratio(update, param)

    # Of the leaves that are given: those that are frozen are no part of the tree.
    return optax.stateless(
        lambda updates, params: jax.tree_util.tree_map_with_path(scale, updates, params, decayed(params))
    )


@chz.chz
class Lion(Optimizer):
    """The sign of a momentum (Chen et al. 2023): a rate 3 to 10 times below AdamW's, a decay as much above."""

    peak_lr: float = chz.field(default=1e-4, doc="learning rate where the schedule is 1")
    weight_decay: float = chz.field(default=0.1, doc="decay of matrices and embeddings a step, times the rate")
    b1: float = chz.field(default=0.9, doc="weight of the momentum against the gradient, in the sign")
    b2: float = chz.field(default=0.99, doc="decay of the momentum")

    def direction(self, params):
        return optax.scale_by_lion(self.b1, self.b2), self._decay(params)


@chz.chz
class Muon(Optimizer):
    """Orthogonalised momentum for the matrices of the body's layers, Adam for the rest (Jordan et al. 2024).

    Updates of matrices are scaled to a root mean square of `rms`, so rates and decays of AdamW carry over (Liu et al.
    2025, arXiv 2502.16982). Attention's kernels [width, heads, size] are one matrix each.
    """

    weight_decay: float = chz.field(default=0.1, doc="decay of matrices and embeddings a step, times the rate")
    momentum: float = chz.field(default=0.95, doc="Nesterov momentum of the matrices")
    rms: float = chz.field(default=0.2, doc="root mean square of a matrix's update, about AdamW's")
    b1: float = chz.field(default=0.9, doc="Adam: decay of the mean gradient")
    b2: float = chz.field(default=0.95, doc="Adam: decay of the mean squared gradient")
    eps: float = chz.field(default=1e-8, doc="Adam: added to the root of the mean squared gradient")

    def direction(self, params):
        def axes(updates):  # leaves that are Adam's are masked: no leaves of this tree
            return jax.tree_util.tree_map_with_path(_matrix_axes, updates)

        def to_rms(updates, _):
            # An orthogonal m x n matrix has a root mean square of 1 / sqrt(max(m, n)).
            return jax.tree_util.tree_map_with_path(
                lambda path, x: x * self.rms * max(_matrix_shape(path, x)) ** 0.5, updates
            )

        muon = optax.chain(
            contrib.scale_by_muon(beta=self.momentum, weight_dimension_numbers=axes), optax.stateless(to_rms)
        )
        labels = jax.tree_util.tree_map_with_path(
            lambda path, leaf: "muon" if _is_hidden_matrix(path, leaf) else "adam", params
        )
        adam = optax.scale_by_adam(self.b1, self.b2, self.eps)
        return optax.partition({"muon": muon, "adam": adam}, labels), self._decay(params)


@chz.chz
class SGD(Optimizer):
    """Momentum; weight decay joins the gradient before it, as in the published ResNet recipes (He et al. 2016)."""

    peak_lr: float = chz.field(default=0.1, doc="learning rate where the schedule is 1")
    weight_decay: float = chz.field(default=1e-4, doc="weight decay of matrices and embeddings, added to the gradient")
    clip: float | None = chz.field(default=None, doc="largest global norm of the gradient; None: no clipping")
    momentum: float = chz.field(default=0.9, doc="decay of the summed gradients")
    nesterov: bool = chz.field(default=False, doc="look one step ahead")

    def direction(self, params):
        return self._decay(params), optax.trace(self.momentum, self.nesterov)
