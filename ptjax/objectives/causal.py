"""Autoregressive language modelling: each token from those before it (GPT)."""

import chz
import jax.numpy as jnp

from ptjax.data.tokenizers import VocabSpec
from ptjax.models.heads import language_model
from ptjax.objectives.base import Objective, StepContext, packed_input, segments_of, token_metrics
from ptjax.objectives.cross_entropy import TokenScores, cross_entropy
from ptjax.types import Array, Batch, Losses, Memory, PyTree, TextInput


@chz.chz
class CausalLM(Objective):
    """-sum_i log p(x_i | x_<i) within each document of a packed row. Legal on any text body: the mask is causal."""

    label_smoothing: float = chz.field(default=0.0, doc="share of the target spread over the vocabulary")
    z_loss: float = chz.field(default=0.0, doc="coefficient of log-sum-exp squared (PaLM: 1e-4)")

    def coefficients(self):
        return {"z_loss": self.z_loss}

    def inputs(self, batch, vocab):
        return packed_input(batch["tokens"], segments_of(batch["tokens"], vocab), vocab, causal=True)

    def weights(self, batch, vocab):
        weight = following(batch["tokens"], vocab).sum()
        return {"causal": weight} | ({"z_loss": weight} if self.z_loss else {})

    def net(self, body, vocab):
        return language_model(body, vocab.size, transform=False, bias=False)

    def losses(self, net, variables, batch: Batch, context: StepContext) -> Losses:
        tokens_BL, vocab = batch["tokens"], context.vocab
        inputs, smoothing = self.inputs(batch, vocab), self.label_smoothing
        begins_B, ends_B = whole_documents(tokens_BL, vocab)
        memory = closed(batch.get("memory"), begins_B)
        scores, state = next_token_scores(net, variables, inputs, tokens_BL, context, memory, smoothing=smoothing)
        weights_N = following(tokens_BL, vocab).reshape(-1)
        totals = {"causal": jnp.sum(scores.loss * weights_N)}
        if self.z_loss:
            totals["z_loss"] = jnp.sum(scores.lse**2 * weights_N)
        metrics = token_metrics(scores, tokens_BL[:, 1:].reshape(-1), weights_N, vocab)
        return Losses(totals, metrics, closed(state, ends_B))

    @property
    def carries(self):
        return True

    def abilities(self):
        return ("sample",)

    def predicted(self, length):
        return {"causal": length - 1}


def whole_documents(tokens_BL: Array, vocab: VocabSpec) -> tuple[Array, Array]:
    """Two bool[B]: a document begins with the row, a document ends with it; as far as the boundary tells, which stands
    on one side only."""
    at_first_B, at_last_B = (tokens_BL[:, at] == vocab.boundary_id for at in (0, -1))
    nowhere_B = jnp.zeros_like(at_first_B)
    return (nowhere_B, at_last_B) if vocab.boundary_side == "end" else (at_first_B, nowhere_B)


def closed(memory: Memory | None, where_B: Array) -> Memory | None:
    """The memory, which what follows shall not see in these rows: its document is over."""
    return memory and memory.replace(open=memory.open & ~where_B[:, None])


def following(tokens_BL: Array, vocab: VocabSpec) -> Array:
    """f32[B, L - 1]: 1 where the next token is of the same document and not padding."""
    segments_BL = segments_of(tokens_BL, vocab)
    same_BM = segments_BL[:, 1:] == segments_BL[:, :-1]
    return (same_BM & (tokens_BL[:, 1:] != vocab.pad_id)).astype(jnp.float32)


def next_token_scores(
    net,
    variables: PyTree,
    inputs: TextInput,
    original_BL: Array,
    context: StepContext,
    state: PyTree = None,
    *,
    smoothing: float = 0.0,
) -> tuple[TokenScores, PyTree]:
    """(scores [B * (L - 1)], the body's new state): original_BL[:, i + 1] from the hidden state at i."""
    hidden = context.apply(net, variables, inputs, state, method="hidden")
    h_ND = hidden.last[:, :-1].reshape(-1, hidden.last.shape[-1])
    features, table, bias = net.apply(variables, h_ND, method="scores")
    labels_N = original_BL[:, 1:].reshape(-1)
    scores = cross_entropy(features, table, bias, labels_N, size=context.vocab.size, smoothing=smoothing)
    return scores, hidden.state
