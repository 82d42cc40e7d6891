"""Masked language modelling (BERT): some tokens from all the others."""

import chz
import jax.numpy as jnp

from ptjax.models.heads import language_model
from ptjax.objectives.base import StepContext, packed_input, segments_of, token_metrics
from ptjax.objectives.cross_entropy import cross_entropy
from ptjax.objectives.masking import MaskedObjective, ordinary
from ptjax.types import Batch, Hidden, Losses, PyTree


@chz.chz
class MLM(MaskedObjective):
    """Devlin et al., 2019: hides some of the tokens and asks for the original.

    Only the chosen positions reach the vocabulary projection.
    """

    def abilities(self):
        return ("fill",)

    def predicted(self, length):
        return {"mlm": self.mean_hidden(length)}

    def projected(self, length):
        return self.most_hidden(length)

    @property
    def transforms_head(self):
        return True

    def corrupt(self, batch, context):
        """Adds original [B, L], the tokens as they were, and positions i32[B, P] with weights f32[B, P], the chosen
        positions; P is the same for every row, and weight 0 fills up rows with fewer ordinary tokens."""
        return batch | self.masked(batch["tokens"], ordinary(batch["tokens"], context.vocab), context)

    def inputs(self, batch, vocab):
        # Documents are told apart in the original, although no boundary is ever masked: one way for all objectives.
        return packed_input(batch["tokens"], segments_of(batch["original"], vocab), vocab, causal=False)

    def weights(self, batch, vocab):
        return {"mlm": batch["weights"].sum()}

    def net(self, body, vocab):
        return language_model(body, vocab.size, transform=True, bias=True)

    def losses(self, net, variables, batch: Batch, context: StepContext) -> Losses:
        inputs = self.inputs(batch, context.vocab)
        hidden = context.apply(net, variables, inputs, method="hidden")
        return self.scored(net, variables, hidden, batch, context)

    def scored(self, net, variables: PyTree, hidden: Hidden, batch: Batch, context: StepContext) -> Losses:
        """What the body's answer is worth."""
        h_BPD = jnp.take_along_axis(hidden.last, batch["positions"][..., None], axis=1)
        labels_N = jnp.take_along_axis(batch["original"], batch["positions"], axis=1).reshape(-1)
        weights_N = batch["weights"].reshape(-1)
        features, table, bias = net.apply(variables, h_BPD.reshape(-1, h_BPD.shape[-1]), method="scores")
        scores = cross_entropy(features, table, bias, labels_N, size=context.vocab.size)
        totals = {"mlm": jnp.sum(scores.loss * weights_N)}
        return Losses(totals, token_metrics(scores, labels_N, weights_N, context.vocab))
