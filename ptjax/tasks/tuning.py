"""What of a model learns in fine-tuning: all of it, its heads, or low-rank changes of its kernels."""

import chz

from ptjax.config import Config
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
