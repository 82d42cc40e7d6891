"""One token after another, in another order than that of the text."""

import chz
import numpy as np

from ptjax.likelihood.base import Likelihood, Question, ranks
from ptjax.objectives import PLM


@chz.chz
class Permutation(Likelihood):
    """sum_t log p(x_z[t] | x_z[<t]) for an order z, exact for the model that reads in this order: for PLM, by the
    queries of its body.

    Summed are the text's own tokens; those of the frame are seen by all and not asked for. Of several orders the mean
    is taken: of log-probabilities, as the objective does, so that it is a lower bound on that of their mixture. PLM has
    learned to predict the last few tokens of an order: the first ones ask for more than it was trained for.
    """

    orders: int | None = chz.field(default=None, doc="so many random orders, always the same; None: left to right")

    @chz.validate
    def _positive(self):
        if self.orders is not None and self.orders < 1:
            raise ValueError(f"orders must be at least 1, not {self.orders}")

    def accepts(self, objective):
        return isinstance(objective, PLM)

    def questions(self, text, objective, vocab):
        count = text.end - text.begin
        for row in range(self.orders or 1):
            order = np.zeros(len(text.tokens), np.int32)
            order[text.begin : text.end] = 1 + (ranks(row, count) if self.orders else np.arange(count))
            at = np.arange(text.begin, text.end)
            yield Question(text.tokens, at, text.tokens[at], order, weight=1 / (self.orders or 1))
