"""Where text comes from: every `Source` yields documents, in an order that depends on its config and files alone."""

import chz

from ptjax.config import Config


@chz.chz
class Source(Config):
    """Base of text sources."""


@chz.chz
class Stdlib(Source):
    """The standard library of the running Python."""
