"""A stack of equal layers: one scan, one set of parameters with a leading 'layers' axis."""

import jax
from flax import linen as nn

from ptjax.types import Array, PyTree

REMAT = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def checkpointed(block: type[nn.Module], remat: str) -> type[nn.Module]:
    """`block`, a class of modules as `Stack` takes, for a layer that stands alone: recomputed as in a stack."""
    if remat == "none":
        return block
    return nn.remat(block, policy=REMAT[remat], static_argnums=(4,))  # train, with self as 0


class Stack(nn.Module):
    """Runs `layers` copies of `block`, a module called as block(x, mask, cache, train) -> (x, cache).

    unroll: write the layers out (fastest on CPUs) or keep a loop (compiles once, whatever the depth). Parameters are
    stacked either way, so the choice is not in the checkpoint.
    remat: 'none' keeps all activations, 'full' recomputes each layer in the backward pass, 'dots' keeps the
    results of matrix products.
    shared: all layers are one, whose parameters have no layers axis (ALBERT).
    mask: a `Mask`, or whatever tree of arrays the layers share and `block` reads.
    cache: a `Cache` whose leaves have a leading layers axis, or None.
    """

    block: nn.Module
    layers: int
    unroll: bool
    remat: str
    shared: bool = False

    @nn.compact
    def __call__(self, x_BLD: Array, mask: PyTree, cache: PyTree, train: bool) -> tuple[Array, PyTree]:
        def step(block, carry, cache, mask):
            return block(carry, mask, cache, train)

        if self.remat != "none":
            # Inside a scan nothing can be merged across layers, so the barriers of prevent_cse only cost.
            step = nn.remat(step, policy=REMAT[self.remat], prevent_cse=self.unroll)
        scan = nn.scan(
            step,
            variable_axes={"auxiliary": 0} if self.shared else {"params": 0, "auxiliary": 0},
            variable_broadcast="params" if self.shared else False,
            split_rngs={"params": not self.shared, "dropout": True},
            in_axes=(0, nn.broadcast),
            out_axes=0,
            length=self.layers,
            unroll=self.layers if self.unroll else 1,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        return scan(self.block, x_BLD, cache, mask)
