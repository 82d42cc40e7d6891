"""From left to right, each token from those before it."""

import chz
import numpy as np

from ptjax.likelihood.base import Likelihood, Question


@chz.chz
class Causal(Likelihood):
    """sum_i log p(x_i | x_<i), exact: for CausalLM, PrefixLM (with no prefix but the first token) and Hybrid.

    Summed are the text's own tokens, and the boundary behind it where the tokenizer frames it so: the text ends there.
    The first token counts where something stands before it: the boundary or another id of the frame. Where nothing
    does, a published model (GPT-2) reads the boundary first, as it has learned to go on from there; but a model that
    ptjax trained on documents that end with the boundary has never seen anything before a first token, nor has it been
    asked for one: then the score is given the first token.
    """

    def accepts(self, objective):
        return "sample" in objective.abilities() and objective.decoding != "unmask"

    @property
    def causal(self):
        return True

    def framing(self, tokenizer, published):
        before, behind = tokenizer.framing
        return ((tokenizer.vocab.boundary_id,) if published and not before else before), behind

    def questions(self, text, objective, vocab):
        ends = text.tokens[text.end : text.end + 1].tolist() == [vocab.boundary_id]
        asked = np.arange(max(text.begin, 1), text.end + ends)
        yield Question(text.tokens, asked - 1, text.tokens[asked])
