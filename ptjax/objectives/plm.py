"""Permutation language modelling (XLNet): tokens one after another, in an order drawn at random."""

import functools

import chz
import jax
import jax.numpy as jnp

from ptjax.data.tokenizers import VocabSpec
from ptjax.models.permutation_net import permutation_net
from ptjax.objectives.base import Objective, StepContext, packed_input, segments_of, token_metrics
from ptjax.objectives.cross_entropy import cross_entropy
from ptjax.objectives.masking import ordinary, placed, quota
from ptjax.partition import per_row
from ptjax.types import Array, Batch, Losses


@chz.chz
class PLM(Objective):
    """Yang et al., 2019: -sum_t log p(x_z[t] | x_z[<t], z[t]) over the end of a random order z of the row (partial
    prediction), by the queries of a body with two streams, which see what comes earlier in the order.

    Exactly round(rate x ordinary tokens) of a row are targets. All others, special tokens among them, are context,
    which every position of the document sees and which sees no target. In the authors' code targets come in spans of
    one to five tokens, and special tokens keep a place in the order; here targets are single tokens.
    """

    rate: float = chz.field(default=1 / 6, doc="share of ordinary tokens that are predicted: 1 / K of the paper")

    @chz.validate
    def _share(self):
        if not 0 < self.rate <= 1:
            raise ValueError(f"rate must be in (0, 1], not {self.rate}")

    @property
    def needs(self):
        return frozenset({"two streams"})

    def corrupt(self, batch, context):
        """Adds positions i32[B, P], the targets in the order in which they are predicted; weights f32[B, P], where 0
        fills up rows with fewer; and order i32[B, L], 1, 2, ... at the targets and 0 elsewhere."""
        draw = functools.partial(self._draw, vocab=context.vocab)
        return batch | per_row(draw, batch["tokens"], context.keys)

    def _draw(self, tokens_BL: Array, keys_B: Array, vocab: VocabSpec) -> Batch:
        length = tokens_BL.shape[1]
        ordinary_BL = ordinary(tokens_BL, vocab)
        quota_B = quota(self.rate, ordinary_BL)
        score_BL = jax.vmap(lambda key: jax.random.uniform(key, (length,)))(keys_B)
        # The highest of independent scores, in falling order: a random choice in a random order.
        position_BP = jax.lax.top_k(jnp.where(ordinary_BL, score_BL, -1.0), self.projected(length))[1]
        rank_P = 1 + jnp.arange(position_BP.shape[1])
        target_BP = rank_P <= quota_B[:, None]
        order_BL = placed(jnp.zeros(tokens_BL.shape, jnp.int32), position_BP, jnp.where(target_BP, rank_P, 0))
        return {"positions": position_BP, "weights": target_BP.astype(jnp.float32), "order": order_BL}

    def inputs(self, batch, vocab):
        inputs = packed_input(batch["tokens"], segments_of(batch["tokens"], vocab), vocab, causal=False)
        return inputs.replace(mask=inputs.mask.replace(order=batch["order"]), targets=batch["positions"])

    def weights(self, batch, vocab):
        return {"plm": batch["weights"].sum()}

    def net(self, body, vocab):
        return permutation_net(body, vocab.size)

    def losses(self, net, variables, batch: Batch, context: StepContext) -> Losses:
        inputs = self.inputs(batch, context.vocab)
        hidden = context.apply(net, variables, inputs, method="hidden")
        labels_N = jnp.take_along_axis(batch["tokens"], batch["positions"], axis=1).reshape(-1)
        weights_N = batch["weights"].reshape(-1)
        h_ND = hidden.queries.reshape(len(labels_N), -1)
        features, table, bias = net.apply(variables, h_ND, method="scores")
        scores = cross_entropy(features, table, bias, labels_N, size=context.vocab.size)
        totals = {"plm": jnp.sum(scores.loss * weights_N)}
        return Losses(totals, token_metrics(scores, labels_N, weights_N, context.vocab))

    def predicted(self, length):
        return {"plm": round(self.rate * length)}

    def flops_per_row(self, body, length, vocab):
        # A target goes through the body as a token does, less its keys and values.
        target = body.flops_per_token(length) - 4.0 * body.layers * body.width**2
        return super().flops_per_row(body, length, vocab) + self.projected(length) * target
