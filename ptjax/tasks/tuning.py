"""What of a model learns in fine-tuning: all of it, its heads, or low-rank changes of its kernels."""

import chz

from ptjax.config import Config
from ptjax.models import adapters
from ptjax.types import PyTree


@chz.chz
class Tuning(Config):
    """Base. A parameter is known by its path in the tree, as in ('body', 'layers', 'attention', 'query', 'kernel')."""

    def net(self, net):
        """The net, with what this adds to its parameters."""
        return net

    def learns(self, path: tuple[str, ...]) -> bool:
        """Whether this parameter changes."""
        return True

    def passes(self, params: PyTree) -> float:
        """The cost of a training step in forward passes: one forward, one back to the inputs of kernels, and as much
        of a third as kernels have gradients. params: of the net, or their shapes."""
        return 3.0

    def merged(self, params: PyTree) -> PyTree:
        """Parameters of the net as it was without this, that answer as those of this one do."""
        return params


@chz.chz
class Full(Tuning):
    """Every parameter learns."""


@chz.chz
class Probe(Tuning):
    """The body is frozen: only heads learn (a linear probe, where the head is linear)."""

    def learns(self, path):
        return path[0] != "body"

    def passes(self, params):
        return 1.0


@chz.chz
class LoRA(Tuning):
    """The body's kernels W are frozen; heads learn, and for some kernels a change of low rank: W + alpha / rank * a b
    (Hu et al., 2021). The optimizer keeps no moments of what is frozen.

    The change is added to the kernels before the net runs, not beside each projection: it works for every body as it
    is, for one small product a step, and the model that is kept is a plain one. The gradient of a changed kernel is
    made on the way; what is saved is the gradient of the others, and the optimizer's memory.
    """

    rank: int = chz.field(default=8, doc="of the change of each kernel")
    alpha: float = chz.field(default=16.0, doc="the change is a b times alpha / rank")
    targets: tuple[str, ...] = chz.field(
        default=("query", "value"),
        doc="names in the paths of kernels: query, key, value, output, up, down, attention, ...",
    )

    @chz.validate
    def _sensible(self):
        if self.rank < 1:
            raise ValueError(f"tuning.rank={self.rank}: at least 1")
        if not 0 < self.alpha < float("inf"):
            raise ValueError(f"tuning.alpha={self.alpha}: above 0")
        if not self.targets:
            raise ValueError("tuning.targets is empty: name kernels, as in ('query', 'value'); Probe changes none")

    def net(self, net):
        return adapters.LowRankNet(net, self.rank, self.alpha, self.targets)

    def learns(self, path):
        return path[0] != "body"

    def passes(self, params):
        return 2.0 + adapters.share(params)

    def merged(self, params):
        return adapters.merged(params, self.alpha)
