"""Law 3: documents of a packed row do not see each other, and a causal model does not see the future."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptjax.data.tokenizers import VocabSpec

from . import cases


def two_documents(vocab: VocabSpec):
    """i32[1, 32]: two documents of 16 tokens. No id comes twice but the boundary, so that the gradient at an id's row
    of the embedding table is the gradient at its position."""
    tokens = np.arange(20, 52, dtype=np.int32)
    tokens[[15, 31] if vocab.boundary_side == "end" else [0, 16]] = vocab.boundary_id
    return tokens[None]


A, B = slice(0, 16), slice(16, 32)


def reader(objective: str, body: str, vocab: VocabSpec = cases.VOCAB):
    """(hidden(params, tokens) -> [B, L, D], params) of the body, as the objective makes it read."""
    learner, params = cases.fresh_params(objective, body)

    @jax.jit
    def hidden(params, tokens):
        inputs = learner.experiment.objective.inputs({"tokens": tokens, "original": tokens}, vocab)
        return learner.net.apply({"params": params}, inputs, method="hidden").last

    return hidden, params


@pytest.fixture(scope="module", params=[p for p in cases.PAIRS if p[0] in cases.KINDS], ids=lambda pair: "-".join(pair))
def setting(request):
    return reader(*request.param)


@pytest.mark.parametrize("side,objective,body", [("end", "mlm", "bert"), ("begin", "causal", "gpt")])
def test_packed_is_unpacked(side, objective, body):
    vocab = VocabSpec.synthetic(300, side)
    hidden, params = reader(objective, body, vocab)
    tokens = two_documents(vocab)
    packed = np.asarray(hidden(params, tokens))
    for document in (A, B):
        np.testing.assert_allclose(packed[:, document], hidden(params, tokens[:, document]), atol=2e-5)


def test_no_gradient_between_documents(setting):
    hidden, params = setting
    tokens = two_documents(cases.VOCAB)
    gradient = jax.jit(jax.grad(lambda params, seen_L: jnp.sum(hidden(params, tokens) ** 3 * seen_L[:, None])))
    ordinary = tokens[0] != cases.VOCAB.boundary_id
    for seen, unseen in [(A, B), (B, A)]:
        seen_L = np.zeros(32, np.float32)
        seen_L[seen] = 1
        at_V = np.abs(gradient(params, seen_L)["body"]["embed"]["tokens"]).sum(axis=1)
        assert (at_V[tokens[0, unseen][ordinary[unseen]]] == 0).all()
        assert (at_V[tokens[0, seen][ordinary[seen]]] > 0).all()


def test_changing_a_document_leaves_the_other_bitwise(setting):
    hidden, params = setting
    tokens = two_documents(cases.VOCAB)
    changed = tokens.copy()
    changed[0, 3] = 200
    before, after = np.asarray(hidden(params, tokens)), np.asarray(hidden(params, changed))
    assert (before[:, B] == after[:, B]).all()
    assert (before[:, A] != after[:, A]).any()


@pytest.mark.parametrize("body", cases.BODIES)
def test_no_gradient_from_the_future(body):
    hidden, params = reader("causal", body)
    tokens = np.arange(20, 52, dtype=np.int32)[None]
    gradient = jax.jit(jax.grad(lambda params, at: jnp.sum(hidden(params, tokens)[:, at] ** 3)))
    for at in (0, 7, 31):
        at_V = np.abs(gradient(params, at)["body"]["embed"]["tokens"]).sum(axis=1)
        assert (at_V[tokens[0, at + 1 :]] == 0).all()
        assert (at_V[tokens[0, : at + 1]] > 0).all()
