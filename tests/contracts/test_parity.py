"""Law 8, of losses: what the objectives make of transformers' frozen numbers. They find documents and padding in the
tokens themselves. tests/interop/test_families.py holds the numbers of every family."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptjax.data.tokenizers import VocabSpec
from ptjax.objectives import StepContext
from tests.interop import parity


@pytest.mark.parametrize("name, term", [("roberta", "mlm"), ("gpt2", "causal")])
def test_loss(name, term):
    case = parity.frozen(name)
    vocab, valid = VocabSpec.synthetic(case.rows), case.frozen["valid"]
    inputs = case.inputs()  # the documents padded, one a row, and once more packed in one row
    tokens = np.where(inputs.mask.valid, inputs.tokens, vocab.pad_id)
    logp = np.asarray(jax.nn.log_softmax(case.frozen["output/logits"]))
    of_document = case.frozen["tokens"][valid]
    if term == "mlm":  # any piece may be the answer at an ordinary position
        random = np.random.default_rng(0)
        asked = (of_document != vocab.boundary_id) & (random.random(of_document.shape) < 0.4)
        answers = np.where(asked, random.integers(7, vocab.size, of_document.shape), of_document)
    else:  # each token answers its predecessor in the document
        asked = (np.arange(valid.shape[1]) < valid.sum(axis=1, keepdims=True) - 1)[valid]
        answers = np.roll(of_document, -1)
    nll = -logp[np.arange(len(logp)), answers][asked].sum()

    batch = {"tokens": tokens}
    if term == "mlm":
        original, chosen = tokens.copy(), np.zeros(tokens.shape, bool)
        for rows, values in ((original, answers), (chosen, asked)):
            rows[:-1, : valid.shape[1]][valid] = values
            rows[-1] = values
        positions = np.argsort(~chosen, axis=1, kind="stable")[:, : chosen.sum(axis=1).max()]  # the asked ones first
        weights = np.take_along_axis(chosen, positions, axis=1).astype(np.float32)
        batch |= {"original": original, "positions": positions, "weights": weights}
    batch = {key: jnp.asarray(value) for key, value in batch.items()}
    run = lambda params: case.objective.losses(case.net, {"params": params}, batch, StepContext(vocab))
    losses = jax.jit(run)(case.params)
    assert losses.totals.keys() == {term}
    np.testing.assert_allclose(losses.totals[term], 2 * nll, rtol=1e-4)
    assert case.objective.weights(batch, vocab)[term] == 2 * asked.sum()
