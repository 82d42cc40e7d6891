"""Mixture of experts: a feed-forward part of many, of which each token goes through a few."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from ptjax.nn.linear import Linear
from ptjax.partition import per_expert, per_row
from ptjax.types import Array

LARGEST_BLOCK = 512


class MoE(nn.Module):
    """[B, L, D] -> [B, L, D]: a router chooses `chosen` of `count` experts for each token, by softmax and top-k in
    float32, and the token becomes the sum of their answers, weighted by their probabilities (Shazeer et al., 2017).

    No expert is ever full: all tokens go where the router sends them, so that rows of a batch do not touch each other.
    renormalise: the weights of the chosen are made to sum to 1 (Mixtral). gated, activation, std, out_std: as in `Mlp`,
    of each expert; there are no biases.

    Where the collection 'auxiliary' is asked for, the layer sows f32[] numbers over the tokens that are not padding.
    balance: E sum_e f_e P_e, f_e the share of tokens that choose expert e and P_e its mean probability (Fedus et al.,
    2021, here for any number of choices): `chosen` where experts are used evenly, `count` where all tokens go to the
    same. router_z: mean squared log-sum-exp of the router's logits (Zoph et al., 2022). busiest: the largest f_e.
    """

    width: int
    hidden: int
    count: int
    chosen: int
    activation: Callable[[Array], Array]
    std: float
    out_std: float
    dtype: jnp.dtype = jnp.float32
    gated: bool = True
    renormalise: bool = True

    def setup(self):
        self.router = Linear((self.width, self.count), ("embed", "router"), self.std, use_bias=False)
        self.experts = Experts(self.count, self.width, self.hidden, self.gated, self.std, self.out_std, self.dtype)

    def __call__(self, x_BLD: Array, valid_BL: Array | None = None, *, train: bool = False) -> Array:
        """valid_BL: bool, False at padding; None: all are real."""
        # In full: accelerators multiply float32 in bfloat16, and near ties would choose otherwise there.
        with jax.default_matmul_precision("highest"):
            logits_BLE = self.router(x_BLD.astype(jnp.float32))
        kernels, names = self.experts()
        if self.is_initializing():
            return x_BLD  # the parameters are made, of one row that no mesh divides
        weight_BLK, index_BLK = per_row(self._choose, logits_BLE)
        if self.is_mutable_collection("auxiliary"):
            for name, value in router_losses(logits_BLE, index_BLK, valid_BL).items():
                self.sow("auxiliary", name, value)
        rows = x_BLD.astype(self.dtype), index_BLK, weight_BLK.astype(self.dtype)
        return per_expert(self._answer, rows, kernels, names)

    def _choose(self, logits_BLE: Array) -> tuple[Array, Array]:
        """Weights and numbers of the chosen experts, [B, L, K] each."""
        weight_BLK, index_BLK = jax.lax.top_k(jax.nn.softmax(logits_BLE), self.chosen)
        if self.renormalise:
            weight_BLK = weight_BLK / weight_BLK.sum(axis=-1, keepdims=True)
        return weight_BLK, index_BLK

    def _answer(self, rows: tuple[Array, Array, Array], kernels: dict[str, Array], first: Array) -> Array:
        """Of experts `first` and up, as many as there are kernels; nothing of the others."""
        x_BLD, index_BLK, weight_BLK = rows
        x_ND, index_NK = x_BLD.reshape(-1, x_BLD.shape[-1]), index_BLK.reshape(-1, index_BLK.shape[-1])
        block = block_size(index_NK.size, self.count)
        slot_M, source_S, expert_G, used = arranged(index_NK.reshape(-1) - first, len(kernels["up"]), block)
        x_GSD = x_ND[source_S // index_NK.shape[1]].reshape(len(expert_G), block, -1)
        h_GSF = self.activation(grouped(x_GSD, kernels["up"], expert_G, used))
        if self.gated:
            h_GSF = h_GSF * grouped(x_GSD, kernels["gate"], expert_G, used)
        y_GSD = grouped(h_GSF, kernels["down"], expert_G, used)
        y_MD = y_GSD.reshape(-1, y_GSD.shape[-1]).at[slot_M].get(mode="fill", fill_value=0)
        y_NKD = y_MD.reshape(*index_NK.shape, -1)
        return jnp.einsum("nkd,nk->nd", y_NKD, weight_BLK.reshape(index_NK.shape)).reshape(x_BLD.shape)


def router_losses(logits_BLE: Array, index_BLK: Array, valid_BL: Array | None) -> dict[str, Array]:
    """balance, router_z and busiest, as in `MoE`; 0 where all is padding."""
    experts = logits_BLE.shape[-1]
    real_BL = jnp.ones(logits_BLE.shape[:2]) if valid_BL is None else valid_BL.astype(jnp.float32)
    mean = lambda x_BL: jnp.tensordot(real_BL, x_BL, axes=2) / jnp.maximum(real_BL.sum(), 1.0)
    used_E = mean(jax.nn.one_hot(index_BLK, experts).sum(axis=2))
    likely_E = mean(jax.nn.softmax(logits_BLE))
    return {
        "balance": experts * jnp.sum(used_E * likely_E),
        "router_z": mean(jax.nn.logsumexp(logits_BLE, axis=-1) ** 2),
        "busiest": used_E.max(),
    }


class Kernel(nn.Module):
    """A kernel of every expert, [E, inputs, outputs] in the compute dtype."""

    shape: tuple[int, ...]
    names: tuple[str, ...]
    std: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self) -> Array:
        init = nn.with_logical_partitioning(nn.initializers.normal(self.std), self.names)
        return self.param("kernel", init, self.shape, jnp.float32).astype(self.dtype)


class Experts(nn.Module):
    """The kernels of all experts, by name, and the names of their axes."""

    count: int
    width: int
    hidden: int
    gated: bool
    std: float
    out_std: float
    dtype: jnp.dtype

    def setup(self):
        into, back = ("experts", "embed", "mlp"), ("experts", "mlp", "embed")
        self.up = Kernel((self.count, self.width, self.hidden), into, self.std, self.dtype)
        if self.gated:
            self.gate = Kernel((self.count, self.width, self.hidden), into, self.std, self.dtype)
        self.down = Kernel((self.count, self.hidden, self.width), back, self.out_std, self.dtype)

    def __call__(self) -> tuple[dict[str, Array], dict[str, tuple[str, ...]]]:
        kernels = {"up": self.up, "down": self.down} | ({"gate": self.gate} if self.gated else {})
        return {name: kernel() for name, kernel in kernels.items()}, {name: k.names for name, k in kernels.items()}


def block_size(choices: int, experts: int) -> int:
    """About half of what an expert gets on average, a power of two: large enough for a matrix product to be fast, so
    small that blocks are full."""
    half = choices // (2 * experts)
    return min(LARGEST_BLOCK, max(8, 1 << half.bit_length() >> 1))


def arranged(expert_M: Array, experts: int, block: int) -> tuple[Array, Array, Array, Array]:
    """An order of M choices in which those of one expert stand together, each expert's from the begin of a block on.

    expert_M: i32, chosen expert; a choice of none of the `experts` here gets no place.
    Returns slot_M, the place of each choice (S where it has none); source_S, the choice at each place (0 where there is
    none); expert_G, the expert of each block of places; and i32[], how many blocks have an expert.
    """
    count = (len(expert_M) + experts * (block - 1)) // block  # what is needed at most
    expert_M = jnp.where((expert_M >= 0) & (expert_M < experts), expert_M, experts)
    size_E = jnp.bincount(expert_M, length=experts)
    blocks_E = -(-size_E // block)
    end_E = jnp.cumsum(blocks_E)
    shift_E = block * (end_E - blocks_E) - (jnp.cumsum(size_E) - size_E)
    order_M = jnp.argsort(expert_M)
    sorted_M = expert_M[order_M]
    place_M = jnp.arange(len(order_M)) + shift_E[jnp.minimum(sorted_M, experts - 1)]
    place_M = jnp.where(sorted_M < experts, place_M, count * block)
    slot_M = jnp.zeros_like(order_M).at[order_M].set(place_M)
    source_S = jnp.zeros(count * block, order_M.dtype).at[place_M].set(order_M, mode="drop")
    expert_G = jnp.minimum(jnp.searchsorted(end_E, jnp.arange(count), side="right"), experts - 1)
    return slot_M, source_S, expert_G, end_E[-1]


@jax.custom_vjp
def grouped(x_GSD: Array, kernel_EDF: Array, expert_G: Array, used: Array) -> Array:
    """Each of the first `used` blocks times the kernel of its expert -> [G, S, F]; the others 0.

    A loop of plain matrix products over the blocks in use. `jax.lax.ragged_dot` multiplies, but for TPUs, all rows with
    all kernels: with eight experts it takes five times as long on a CPU.
    """
    zeros = jnp.zeros((*x_GSD.shape[:2], kernel_EDF.shape[2]), x_GSD.dtype)
    return jax.lax.fori_loop(0, used, lambda g, y: y.at[g].set(x_GSD[g] @ kernel_EDF[expert_G[g]]), zeros)


def _grouped_forward(*arguments):
    return grouped(*arguments), arguments


def _grouped_backward(arguments, dy_GSF):
    x_GSD, kernel_EDF, expert_G, used = arguments

    def add(g, sums):
        dx_GSD, dkernel_EDF = sums
        own = jnp.einsum("sd,sf->df", x_GSD[g], dy_GSF[g], preferred_element_type=jnp.float32)
        return dx_GSD.at[g].set(dy_GSF[g] @ kernel_EDF[expert_G[g]].T), dkernel_EDF.at[expert_G[g]].add(own)

    zeros = jnp.zeros_like(x_GSD), jnp.zeros(kernel_EDF.shape, jnp.float32)
    dx_GSD, dkernel_EDF = jax.lax.fori_loop(0, used, add, zeros)
    return dx_GSD, dkernel_EDF.astype(kernel_EDF.dtype), None, None


grouped.defvjp(_grouped_forward, _grouped_backward)
