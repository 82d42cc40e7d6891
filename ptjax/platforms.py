"""What is done in another way on CPUs, GPUs and TPUs: how things are worked out, never what. Results differ by
rounding, the tree of parameters not at all."""

import dataclasses
from typing import Literal

from ptjax import partition


@dataclasses.dataclass(frozen=True)
class Platform:
    """unrolled: whether layers are written out or run as one loop, where `model.unroll` is None. Written out a step of
    a small GPT takes a CPU three quarters of the time; a loop compiles in the same time whatever the depth.

    turned: whether the gradient of a kernel is a product whose factors have been turned around in memory first
    (`nn.linear.over_rows`). XLA on CPUs multiplies by strides otherwise, at up to a quarter of the speed.

    attention: the fused kernel that is used for what it honours; None: written out everywhere. On CPUs jax has none
    that is faster.

    logits: bytes of the vocabulary's logits that a device may hold at once (`objectives.cross_entropy`); None: all of
    them. What is larger is worked out in parts, at the cost of one product more.
    """

    unrolled: bool = False
    turned: bool = False
    attention: Literal["splash", "cudnn"] | None = None
    logits: int | None = None


PLATFORMS = {
    "cpu": Platform(unrolled=True, turned=True),
    "gpu": Platform(attention="cudnn", logits=4 << 30),
    "tpu": Platform(attention="splash", logits=4 << 30),
}


def here() -> Platform:
    """Of the devices that are being compiled for."""
    return PLATFORMS.get(partition.platform(), Platform())
