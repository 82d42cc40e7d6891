"""Law 3: documents of a packed row do not see each other, and a causal model does not see the future."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptjax.data.tokenizers import VocabSpec

from . import cases


def tokens_of_two_documents(vocab: VocabSpec):
    """(i32[1, 32], where the second document begins). No id comes twice but the boundary, so that the gradient at an
    id's row of the embedding table is the gradient at its position."""
    tokens = np.arange(20, 52, dtype=np.int32)
    if vocab.boundary_side == "end":
        tokens[[12, 31]] = vocab.boundary_id
        return tokens[None], 13
    tokens[[0, 13]] = vocab.boundary_id
    return tokens[None], 13


@pytest.fixture(scope="module", params=cases.PAIRS, ids=lambda pair: "-".join(pair))
def setting(request):
    learner = cases.Learner(cases.experiment(*request.param), cases.VOCAB)
    params = jax.jit(learner.init_state)(np.uint32(0)).params
    objective = learner.experiment.objective

    @jax.jit
    def hidden(params, tokens):
        inputs = objective.inputs({"tokens": tokens, "original": tokens}, learner.vocab)
        return learner.net.apply({"params": params}, inputs, method="hidden").last

    return hidden, params


@pytest.mark.parametrize("side", ["end", "begin"])
def test_packed_is_unpacked(side):
    vocab = VocabSpec.synthetic(300, side)
    tokens, second = tokens_of_two_documents(vocab)
    for pair in [("mlm", "bert"), ("causal", "gpt")]:
        learner = cases.Learner(cases.experiment(*pair), vocab)
        params = jax.jit(learner.init_state)(np.uint32(0)).params

        def hidden(tokens):
            inputs = learner.experiment.objective.inputs({"tokens": tokens, "original": tokens}, vocab)
            return np.asarray(learner.net.apply({"params": params}, inputs, method="hidden").last)

        packed = hidden(tokens)
        np.testing.assert_allclose(packed[:, :second], hidden(tokens[:, :second]), atol=2e-5)
        np.testing.assert_allclose(packed[:, second:], hidden(tokens[:, second:]), atol=2e-5)


def test_no_gradient_between_documents(setting):
    hidden, params = setting
    tokens, second = tokens_of_two_documents(cases.VOCAB)
    for seen, unseen in [(slice(0, second), slice(second, 32)), (slice(second, 32), slice(0, second))]:
        loss = lambda params: jnp.sum(hidden(params, tokens)[:, seen] ** 3)
        at_V = np.abs(jax.grad(loss)(params)["body"]["embed"]["tokens"]).sum(axis=1)
        ordinary = tokens[0] != cases.VOCAB.boundary_id
        assert (at_V[tokens[0, unseen][ordinary[unseen]]] == 0).all()
        assert (at_V[tokens[0, seen][ordinary[seen]]] > 0).all()


def test_changing_a_document_leaves_the_other_bitwise(setting):
    hidden, params = setting
    tokens, second = tokens_of_two_documents(cases.VOCAB)
    changed = tokens.copy()
    changed[0, 3] = 200
    before, after = np.asarray(hidden(params, tokens)), np.asarray(hidden(params, changed))
    assert (before[:, second:] == after[:, second:]).all()
    assert (before[:, :second] != after[:, :second]).any()


@pytest.mark.parametrize("body", cases.BODIES)
def test_no_gradient_from_the_future(body):
    learner = cases.Learner(cases.experiment("causal", body), cases.VOCAB)
    params = jax.jit(learner.init_state)(np.uint32(0)).params
    tokens = np.arange(20, 52, dtype=np.int32)[None]
    for at in (0, 7, 31):

        def loss(params):
            inputs = learner.experiment.objective.inputs({"tokens": tokens}, cases.VOCAB)
            return jnp.sum(learner.net.apply({"params": params}, inputs, method="hidden").last[:, at] ** 3)

        at_V = np.abs(jax.grad(loss)(params)["body"]["embed"]["tokens"]).sum(axis=1)
        assert (at_V[tokens[0, at + 1 :]] == 0).all()
        assert (at_V[tokens[0, : at + 1]] > 0).all()
