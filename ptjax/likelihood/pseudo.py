"""Each token of a text from all the others."""

import chz
import numpy as np

from ptjax.likelihood.base import Likelihood, Question
from ptjax.objectives import PLM
from ptjax.objectives.spans import Denoising


@chz.chz
class PseudoLikelihood(Likelihood):
    """Pseudo-log-likelihood (Salazar et al., 2020): sum_i log p(x_i | all other tokens), x_i masked alone: for MLM and
    what is built on it, Hybrid, MaskedDiffusion (whose mask is no possible answer) and PLM (where instead of a mask a
    query is asked that does not see x_i), and for SpanCorruption and UL2, which read a sentinel in the place of x_i, a
    span of one token, and answer with it behind the sentinel.

    Summed are the text's own tokens; those of the frame are shown and not asked for. It is no probability: a word of
    several pieces is guessed too well from its own other pieces, and `within_word` hides those to the right.
    Hybrid fills a mask from the state before it: a first token with nothing in front is given.
    """

    within_word: bool = chz.field(
        default=False, doc="also mask the pieces to the right in the same word (Kauf and Ivanova, 2023)"
    )

    def accepts(self, objective):
        return "fill" in objective.abilities() or isinstance(objective, (PLM, Denoising))

    def room(self, objective):
        return 1 + 2 if isinstance(objective, Denoising) else 0  # a mode, and what the decoder reads

    @property
    def single(self):
        return True

    def questions(self, text, objective, vocab):
        tokens = text.tokens
        begins = vocab.starts_word[tokens]
        begins[1:] |= vocab.ends_word[tokens[:-1]]
        for i in range(max(text.begin, objective.shift), text.end):
            stop = i + 1
            while self.within_word and stop < text.end and not begins[stop]:
                stop += 1
            label, ahead = tokens[i : i + 1], np.array([i - objective.shift], np.int32)
            if isinstance(objective, Denoising):
                sentinel, decoder = vocab.extra_ids[:1], np.array([vocab.pad_id, vocab.extra_ids[0]], np.int32)
                mode = vocab.extra_ids[objective.sentinels :][: bool(objective.modes)]  # [R], the first of them
                shown = np.concatenate([mode, tokens[:i], sentinel, tokens[stop:]]).astype(np.int32)
                yield Question(shown, np.array([1], np.int32), label, decoder=decoder)
            elif isinstance(objective, PLM):
                order = np.zeros(len(tokens), np.int32)
                order[i:stop] = 1 + np.arange(stop - i)
                yield Question(tokens, ahead, label, order)
            else:
                shown = tokens.copy()
                shown[i:stop] = vocab.mask_id
                yield Question(shown, ahead, label)
