"""Each token of a text from all the others."""

import chz
import numpy as np

from ptjax.likelihood.base import Likelihood, Question
from ptjax.objectives import PLM


@chz.chz
class PseudoLikelihood(Likelihood):
    """Pseudo-log-likelihood (Salazar et al., 2020): sum_i log p(x_i | all other tokens), x_i masked alone: for MLM and
    what is built on it, Hybrid, MaskedDiffusion (whose mask is no possible answer) and PLM (where instead of a mask a
    query is asked that does not see x_i).

    Summed are the text's own tokens; those of the frame are shown and not asked for. It is no probability: a word of
    several pieces is guessed too well from its own other pieces, and `within_word` hides those to the right.
    Hybrid fills a mask from the state before it: a first token with nothing in front is given.
    """

    within_word: bool = chz.field(
        default=False, doc="also mask the pieces to the right in the same word (Kauf and Ivanova, 2023)"
    )

    def accepts(self, objective):
        return "fill" in objective.abilities() or isinstance(objective, PLM)

    @property
    def single(self):
        return True

    def questions(self, text, objective, vocab):
        tokens, permuted = text.tokens, isinstance(objective, PLM)
        begins = vocab.starts_word[tokens]
        begins[1:] |= vocab.ends_word[tokens[:-1]]
        for i in range(max(text.begin, objective.shift), text.end):
            stop = i + 1
            while self.within_word and stop < text.end and not begins[stop]:
                stop += 1
            at, label = np.array([i - objective.shift], np.int32), tokens[i : i + 1]
            if permuted:
                order = np.zeros(len(tokens), np.int32)
                order[i:stop] = 1 + np.arange(stop - i)
                yield Question(tokens, at, label, order)
            else:
                shown = tokens.copy()
                shown[i:stop] = vocab.mask_id
                yield Question(shown, at, label)
