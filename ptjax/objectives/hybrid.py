"""Causal and masked language modelling at once, by one stack and one head (GPT-BERT)."""

import chz
import jax
import jax.numpy as jnp

from ptjax.data.tokenizers import VocabSpec
from ptjax.models.heads import language_model
from ptjax.objectives.base import StepContext, packed_input, positions_of, segments_of
from ptjax.objectives.causal import following, next_token_scores
from ptjax.objectives.masking import MaskedObjective, ordinary, placed
from ptjax.partition import per_row
from ptjax.types import Array, Batch, Losses


@chz.chz
class Hybrid(MaskedObjective):
    """Charpentier and Samuel, 2024, "GPT or BERT: why not both?": masked next-token prediction.

    A row is causal, or masked and read in both directions, by chance. Either way the token at i + 1 is predicted from
    the hidden state at i, so that one set of weights continues text and fills masks; the first token of a document,
    which has nothing before it, is never hidden. Defaults are those of the authors' code: one part in 16 is causal, and
    each kind's mean loss counts by its share of the rows, however many predictions it makes. Left out are its z-loss
    and its spans of one to three tokens.
    """

    causal: float = chz.field(default=1 / 16, doc="probability that a row is causal; also the share of its loss")
    rate: float = chz.field(default=0.3, doc="share of ordinary tokens that are predicted in a masked row")
    final_rate: float | None = chz.field(default=0.15, doc="that share at the end of the run; None: constant")

    @chz.validate
    def _both(self):
        if not 0 < self.causal < 1:
            raise ValueError(f"causal must be in (0, 1), not {self.causal}: CausalLM and MLM are the ends")

    def coefficients(self):
        return {"causal": self.causal, "masked": 1 - self.causal}

    def corrupt(self, batch, context):
        """Adds original [B, L]; causal: bool[B]; and hidden: bool[B, L], the tokens that a masked row is asked for."""
        tokens_BL = batch["tokens"]
        causal_B = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, 1)))(context.keys) < self.causal
        inner_BL = positions_of(segments_of(tokens_BL, context.vocab)) > 0
        masked = self.masked(tokens_BL, ordinary(tokens_BL, context.vocab) & inner_BL, context)
        hidden_BL = per_row(_marked, tokens_BL, masked["positions"], masked["weights"])
        return batch | {
            "tokens": jnp.where(causal_B[:, None], tokens_BL, masked["tokens"]),
            "original": tokens_BL,
            "causal": causal_B,
            "hidden": hidden_BL & ~causal_B[:, None],
        }

    def inputs(self, batch, vocab):
        both_ways_BL = jnp.broadcast_to(~batch["causal"][:, None], batch["tokens"].shape)
        segments_BL = segments_of(batch["original"], vocab)
        return packed_input(batch["tokens"], segments_BL, vocab, causal=True, prefix=both_ways_BL)

    def _asked(self, batch: Batch, vocab: VocabSpec) -> dict[str, Array]:
        """f32[B, L - 1] for each term: 1 where the next token is asked for."""
        return {
            "causal": following(batch["original"], vocab) * batch["causal"][:, None],
            "masked": batch["hidden"][:, 1:].astype(jnp.float32),
        }

    def weights(self, batch, vocab):
        return {name: asked_BM.sum() for name, asked_BM in self._asked(batch, vocab).items()}

    def net(self, body, vocab):
        return language_model(body, vocab.size, transform=True, bias=True)

    def losses(self, net, variables, batch: Batch, context: StepContext) -> Losses:
        inputs = self.inputs(batch, context.vocab)
        scores, _ = next_token_scores(net, variables, inputs, batch["original"], context)
        totals, metrics = {}, {}
        for name, asked_BM in self._asked(batch, context.vocab).items():
            weights_N = asked_BM.reshape(-1)
            totals[name] = jnp.sum(scores.loss * weights_N)
            metrics[f"{name}_nll"] = (totals[name], weights_N.sum())
            metrics[f"{name}_accuracy"] = (jnp.sum(scores.correct * weights_N), weights_N.sum())
        return Losses(totals, metrics)

    def abilities(self):
        return ("fill", "sample")

    @property
    def shift(self):
        return 1

    def predicted(self, length):
        masked = self.mean_hidden(length - 1)
        return {"causal": self.causal * (length - 1), "masked": (1 - self.causal) * masked}

    def projected(self, length):
        return length - 1  # rows of both kinds have one shape

    @property
    def transforms_head(self):
        return True

    def trivial(self, scores, unigram):
        return "masked_nll", "unigram entropy", unigram


def _marked(tokens_BL: Array, positions_BP: Array, weights_BP: Array) -> Array:
    """bool[B, L], True at the positions of weight 1."""
    return placed(jnp.zeros(tokens_BL.shape, bool), positions_BP, weights_BP > 0)
