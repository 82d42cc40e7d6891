"""The feed-forward half of a layer, as a body's config asks for it: an `Mlp`, or experts."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import chz

from ptjax.config import Config
from ptjax.nn.mlp import Mlp
from ptjax.nn.moe import MoE
from ptjax.types import Array

if TYPE_CHECKING:
    from ptjax.models.base import TextModelConfig


@chz.chz
class Experts(Config):
    """A mixture of experts in place of each feed-forward part (`MoE`), whose `hidden` units each expert has."""

    count: int = chz.field(default=8, doc="experts of a layer")
    chosen: int = chz.field(default=2, doc="experts that a token goes through: the k of top-k")
    renormalise: bool = chz.field(default=True, doc="the weights of the chosen sum to 1, not to their probability")
    balance: float = chz.field(default=0.01, doc="coefficient of the load-balancing loss (Fedus et al., 2021)")
    router_z: float = chz.field(default=0.001, doc="coefficient of the router's z-loss (Zoph et al., 2022)")

    @chz.validate
    def _sizes(self):
        if not 1 <= self.chosen <= self.count:
            raise ValueError(f"chosen={self.chosen} of count={self.count} experts: it is at least 1 and at most all")
        if self.chosen == 1 and self.renormalise and self.count > 1:
            raise ValueError(
                "with chosen=1 and renormalise=True each weight is 1, and the router learns nothing of the task: set "
                "renormalise=False, as in a Switch Transformer"
            )
        for name in ("balance", "router_z"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)}")

    def coefficients(self) -> dict[str, float]:
        return {"balance": self.balance, "router_z": self.router_z}


def feed_forward(
    config: "TextModelConfig",
    activation: Callable[[Array], Array],
    std: float,
    out_std: float,
    *,
    gated: bool = False,
    use_bias: bool = True,
) -> Mlp | MoE:
    """A module called as (x [B, L, D], mask.valid, train=train) -> [B, L, D]. Experts have no biases."""
    c, dtype = config, config.compute_dtype()
    if c.experts is None:
        return Mlp(c.width, c.hidden, activation, std, out_std, dtype, gated, use_bias)
    own = c.experts
    return MoE(
        c.width, c.hidden, own.count, own.chosen, activation, std, out_std, dtype, gated, renormalise=own.renormalise
    )
