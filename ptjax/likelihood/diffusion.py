"""A lower bound on the likelihood of a text, from masks on a random part of it."""

import math

import chz
import numpy as np

from ptjax.likelihood.base import Likelihood, Question, noise, ranks


@chz.chz
class DiffusionBound(Likelihood):
    """Masked diffusion's evidence lower bound by Monte Carlo: for MaskedDiffusion.

    Of n tokens l are masked, l uniform on 1 to n, each choice of them as likely, and (n / l) sum log p(x_i | what is
    shown) over the masked is averaged: in expectation the bound for t ~ U(0, 1), with less variance than by drawing
    t and then each mask on its own (Nie et al., 2025, "LLaDA", equation 6). Strata of l are drawn evenly, and the draws
    are the same for all texts. Masked are the text's own tokens; those of the frame are shown. The mask is no answer.
    """

    samples: int = chz.field(default=32, doc="questions a text")

    @chz.validate
    def _positive(self):
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, not {self.samples}")

    def accepts(self, objective):
        return objective.decoding == "unmask"

    def questions(self, text, objective, vocab):
        count, share = text.end - text.begin, noise(0, self.samples)
        for row in range(self.samples):
            masked = 1 + math.floor(count * (row + share[row]) / self.samples)
            at = text.begin + np.flatnonzero(ranks(1 + row, count) < masked)
            shown = text.tokens.copy()
            shown[at] = vocab.mask_id
            yield Question(shown, at, text.tokens[at], weight=count / masked / self.samples)
