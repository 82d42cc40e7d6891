"""Law 3: packed documents are read as they are alone. That they do not see each other is a law of `ptjax.check`."""

import jax
import numpy as np
import pytest

from ptjax.data.tokenizers import VocabSpec

from . import cases


A, B = slice(0, 16), slice(16, 32)


@pytest.mark.parametrize("side,objective,body", [("end", "mlm", "bert"), ("begin", "causal", "gpt")])
def test_packed_is_unpacked(side, objective, body):
    vocab = VocabSpec.synthetic(300, side)
    learner, params = cases.fresh_params(objective, body)
    tokens = np.arange(20, 52, dtype=np.int32)[None]
    tokens[0, [15, 31] if side == "end" else [0, 16]] = vocab.boundary_id

    @jax.jit
    def hidden(params, tokens):
        inputs = learner.objective.inputs({"tokens": tokens, "original": tokens}, vocab)
        return learner.net.apply({"params": params}, inputs, method="hidden").last

    packed = np.asarray(hidden(params, tokens))
    for document in (A, B):
        np.testing.assert_allclose(packed[:, document], hidden(params, tokens[:, document]), atol=2e-5)
