"""Masked diffusion: the whole text out of masks, however many of its tokens are hidden."""

import chz
import jax
import jax.numpy as jnp
import numpy as np

from ptjax.models.heads import language_model
from ptjax.objectives.base import Objective, StepContext, packed_input, segments_of
from ptjax.objectives.cross_entropy import cross_entropy
from ptjax.objectives.masking import ordinary
from ptjax.partition import per_row
from ptjax.types import Batch, Losses


@chz.chz
class MaskedDiffusion(Objective):
    """MDLM (Sahoo et al., 2024): absorbing-state diffusion in continuous time, log-linear schedule, and no time in the
    net. At time t ~ U(eps, 1) of a row each ordinary token is masked with probability t; the loss
    sum over masked of -log p(x_i | what is shown) / t is an unbiased estimate of the negative evidence lower bound
    (NELBO) for t ~ U(0, 1), and with the earliest time eps of the NELBO but for a difference of O(eps).

    SUBS: the mask is never the answer, and what is shown is known. Special tokens are shown always: the bound is of
    the text given where documents end. It is in nats a token and in bits a byte, as the loss of a causal model is,
    which pays for a document's end but not for its first token. So the term's weight, and `predicted`, count all
    ordinary tokens, of which on average (1 + eps) / 2, about half, are hidden and asked for. Rows draw their times
    independently, where the authors' code spreads them over the batch.
    """

    eps: float = chz.field(default=1e-3, doc="the earliest time, which bounds the weight 1 / t")

    @chz.validate
    def _open(self):
        if not 0 < self.eps < 1:
            raise ValueError(f"eps must be in (0, 1), not {self.eps}")

    def corrupt(self, batch, context):
        """Adds original [B, L]; hidden: bool[B, L]; and time: f32[B]."""
        tokens_BL, length = batch["tokens"], batch["tokens"].shape[1]

        def draw(keys_B):
            draw_BL = jax.vmap(lambda key: jax.random.uniform(key, (length + 1,)))(keys_B)
            time_B = self.eps + (1 - self.eps) * draw_BL[:, 0]
            return time_B, draw_BL[:, 1:] < time_B[:, None]

        time_B, hidden_BL = per_row(draw, context.keys)
        hidden_BL = hidden_BL & ordinary(tokens_BL, context.vocab)
        shown_BL = jnp.where(hidden_BL, context.vocab.mask_id, tokens_BL)
        return batch | {"tokens": shown_BL, "original": tokens_BL, "hidden": hidden_BL, "time": time_B}

    def inputs(self, batch, vocab):
        return packed_input(batch["tokens"], segments_of(batch["original"], vocab), vocab, causal=False)

    def weights(self, batch, vocab):
        return {"diffusion": ordinary(batch["original"], vocab).sum(dtype=jnp.float32)}

    def net(self, body, vocab):
        return language_model(body, vocab.size, transform=True, bias=True)

    def losses(self, net, variables, batch: Batch, context: StepContext) -> Losses:
        vocab, original_BL = context.vocab, batch["original"]
        inputs = self.inputs(batch, vocab)
        hidden = context.apply(net, variables, inputs, method="hidden")
        h_ND = hidden.last.reshape(-1, hidden.last.shape[-1])
        features, table, bias = net.apply(variables, h_ND, method="scores")
        bias = jnp.where(jnp.arange(bias.shape[0]) == vocab.mask_id, -1e30, bias)
        scores = cross_entropy(features, table, bias, original_BL.reshape(-1), size=vocab.size)
        hidden_N = batch["hidden"].reshape(-1).astype(jnp.float32)
        weight_N = (batch["hidden"] / batch["time"][:, None]).reshape(-1)
        nelbo, tokens = jnp.sum(scores.loss * weight_N), self.weights(batch, vocab)["diffusion"]
        size = jnp.where(
            ordinary(original_BL, vocab), jnp.asarray(vocab.piece_bytes, jnp.float32)[original_BL], 0
        ).sum()
        metrics = {
            "accuracy": (jnp.sum(scores.correct * hidden_N), hidden_N.sum()),
            "nelbo": (nelbo, tokens),
            "bits_per_byte": (nelbo / np.log(2), size),
        }
        return Losses({"diffusion": nelbo}, metrics)

    def abilities(self):
        return ("fill", "sample")

    @property
    def decoding(self):
        return "unmask"

    def predicted(self, length):
        return {"diffusion": length}

    @property
    def transforms_head(self):
        return True

    def trivial(self, scores, unigram):
        """The bound of a model that knows frequencies alone is their entropy: each token is paid for once."""
        return "nelbo", "unigram entropy", unigram
