"""Autoregressive language modelling: each token from those before it (GPT)."""

import chz
import jax.numpy as jnp

from ptjax.data.tokenizers import VocabSpec
from ptjax.models.heads import language_model
from ptjax.objectives.base import Objective, StepContext, packed_input, segments_of, token_metrics
from ptjax.objectives.cross_entropy import cross_entropy
from ptjax.types import Array, Batch, Losses


@chz.chz
class CausalLM(Objective):
    """-sum_i log p(x_i | x_<i) within each document of a packed row. Legal on any text body: the mask is causal."""

    label_smoothing: float = chz.field(default=0.0, doc="share of the target spread over the vocabulary")
    z_loss: float = chz.field(default=0.0, doc="coefficient of log-sum-exp squared (PaLM: 1e-4)")

    def coefficients(self):
        return {"z_loss": self.z_loss}

    def inputs(self, batch, vocab):
        return packed_input(batch["tokens"], segments_of(batch["tokens"], vocab), vocab, causal=True)

    def _targets(self, tokens_BL: Array, vocab: VocabSpec) -> tuple[Array, Array]:
        """(labels, weights), [B, L - 1]: the next token, where it is of the same document and not padding."""
        segments_BL = segments_of(tokens_BL, vocab)
        labels = tokens_BL[:, 1:]
        same = segments_BL[:, 1:] == segments_BL[:, :-1]
        return labels, (same & (labels != vocab.pad_id)).astype(jnp.float32)

    def weights(self, batch, vocab):
        weight = self._targets(batch["tokens"], vocab)[1].sum()
        return {"causal": weight} | ({"z_loss": weight} if self.z_loss else {})

    def net(self, body, vocab):
        return language_model(body, vocab.size, transform=False, bias=False)

    def losses(self, net, variables, batch: Batch, context: StepContext) -> Losses:
        tokens_BL, vocab = batch["tokens"], context.vocab
        inputs = self.inputs(batch, vocab)
        memory = batch.get("memory")
        hidden = net.apply(variables, inputs, memory, train=context.train, rngs=context.rngs, method="hidden")
        h_ND = hidden.last[:, :-1].reshape(-1, hidden.last.shape[-1])
        labels_N, weights_N = (x.reshape(-1) for x in self._targets(tokens_BL, vocab))
        features, table, bias = net.apply(variables, h_ND, method="scores")
        scores = cross_entropy(features, table, bias, labels_N, size=vocab.size, smoothing=self.label_smoothing)
        totals = {"causal": jnp.sum(scores.loss * weights_N)}
        if self.z_loss:
            totals["z_loss"] = jnp.sum(scores.lse**2 * weights_N)
        return Losses(totals, token_metrics(scores, labels_N, weights_N, vocab), hidden.state)

    @property
    def carries(self):
        return True

    def abilities(self):
        return ("sample",)

    def predicted(self, length):
        return {"causal": length - 1}
