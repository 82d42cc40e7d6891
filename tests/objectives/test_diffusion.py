"""MDLM's bound against a formula written out as loops, and that it is unbiased."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ptjax.objectives import CausalLM, MaskedDiffusion
from ptjax.objectives.base import StepContext
from ptjax.types import Hidden
from tests.contracts import cases
from tests.objectives.posing import log_probs, net_of, pose, text

VOCAB, OBJECTIVE = cases.VOCAB, MaskedDiffusion()


def test_loss_is_mdlms():
    """sum over masked tokens of -log p / t, where the mask is no possible answer."""
    batch = pose(OBJECTIVE, cases.batch(1))
    logs, (net, params) = log_probs(OBJECTIVE, batch), net_of(OBJECTIVE)
    losses = jax.jit(lambda b: OBJECTIVE.losses(net, {"params": params}, b, StepContext(VOCAB)))(batch)
    total, tokens, size, masked, right = 0.0, 0, 0, 0, 0
    for row, original in enumerate(batch["original"]):
        for i, token in enumerate(original):
            if token in VOCAB.special_ids:
                assert batch["tokens"][row, i] == token
                continue
            tokens, size = tokens + 1, size + VOCAB.piece_bytes[token]
            if batch["tokens"][row, i] == VOCAB.mask_id:
                possible = np.exp(logs[row, i])
                possible[VOCAB.mask_id] = 0.0
                total -= np.log(possible[token] / possible.sum()) / batch["time"][row]
                masked, right = masked + 1, right + (possible.argmax() == token)
            else:
                assert batch["tokens"][row, i] == token
    assert masked > 50
    assert losses.totals["diffusion"] == pytest.approx(total, rel=1e-4)
    assert OBJECTIVE.weights(batch, VOCAB)["diffusion"] == tokens
    assert losses.metrics["nelbo"] == pytest.approx((total, tokens), rel=1e-4)
    assert losses.metrics["bits_per_byte"] == pytest.approx((total / np.log(2), size), rel=1e-4)
    assert losses.metrics["accuracy"] == (right, masked)


class Frequencies:
    """A net without context: it gives each piece a probability, whatever it reads."""

    def __init__(self, bias):
        self.bias = bias

    def apply(self, variables, x, *_, method, **__):
        if method == "hidden":
            return Hidden(jnp.zeros((*x.tokens.shape, 1))), {}
        return x, jnp.zeros((len(self.bias), 1)), self.bias


@functools.cache
def frequencies():
    bias = np.random.default_rng(0).normal(size=VOCAB.size).astype(np.float32) * 2
    bias[VOCAB.mask_id] = 5.0  # the likeliest of all, if it were possible
    possible = np.delete(bias.astype(np.float64), VOCAB.mask_id)
    return Frequencies(jnp.asarray(bias)), bias - np.log(np.exp(possible).sum())


def test_the_bound_of_a_model_without_context_is_its_likelihood():
    """The mean over questions, to sampling error, and as bits a byte what the same model has from left to right."""
    net, logs = frequencies()
    batch = cases.batch(4)
    ordinary = ~np.isin(batch["tokens"], VOCAB.special_ids)
    exact = -np.where(ordinary, logs[batch["tokens"]], 0).sum(axis=1)

    @jax.jit
    def bound(batch):
        one = lambda row: OBJECTIVE.losses(net, {}, jax.tree.map(lambda x: x[None], row), StepContext(VOCAB))
        return jax.vmap(lambda row: one(row).totals["diffusion"])(batch)

    draws = np.stack([bound(pose(OBJECTIVE, batch, step)) for step in range(1500)]).astype(np.float64)
    error = draws.mean() - exact.mean()
    spread = draws.mean(axis=1).std() / len(draws) ** 0.5
    assert spread < 0.02 * exact.mean()  # so that being off by 1 / (1 - eps), or by what the mask takes, would show
    assert abs(error) < 5 * spread
    # Row by row as well: rows of one time differ in length alone.
    assert (np.abs(draws.mean(axis=0) - exact) < 5 * draws.std(axis=0) / len(draws) ** 0.5).all()


def test_bits_are_those_of_a_causal_model():
    """All tokens masked and no context: the bound is the sum over all ordinary tokens, in the units of `CausalLM`."""
    bias = frequencies()[0].bias.at[VOCAB.mask_id].set(-1e30)
    batch = text(4, 33)
    posed = {
        "original": batch["tokens"][:, 1:],
        "tokens": np.full((4, 32), VOCAB.mask_id, np.int32),
        "hidden": np.ones((4, 32), bool),
        "time": np.ones(4, np.float32),
    }
    metrics = lambda objective, batch: objective.losses(Frequencies(bias), {}, batch, StepContext(VOCAB)).metrics
    found = jax.device_get(jax.jit(lambda: metrics(OBJECTIVE, posed))())
    causal = jax.device_get(jax.jit(lambda: metrics(CausalLM(), batch))())
    for ours, theirs in (("nelbo", "nll"), ("bits_per_byte", "bits_per_byte")):
        np.testing.assert_allclose(found[ours], causal[theirs], rtol=1e-5)


def test_times_and_masks():
    """t ~ U(eps, 1) for each row, and at t each ordinary token is masked with probability t, on its own."""
    objective = MaskedDiffusion(eps=0.2)
    times, scores, neighbours = [], [], []
    for step in range(40):
        out = pose(objective, text(64, 32), step)
        t, hidden = out["time"][:, None], out["hidden"]
        times += out["time"].tolist()
        scores += ((hidden - t) / np.sqrt(t * (1 - t) + 1e-9)).reshape(-1).tolist()
        neighbours += ((hidden[:, 1:] - t) * (hidden[:, :-1] - t)).reshape(-1).tolist()
    assert 0.2 <= min(times) and max(times) <= 1
    assert stats.kstest(times, stats.uniform(0.2, 0.8).cdf).pvalue > 1e-4
    assert abs(np.mean(scores)) < 5 * np.std(scores) / len(scores) ** 0.5
    assert abs(np.mean(neighbours)) < 5 * np.std(neighbours) / len(neighbours) ** 0.5


def test_the_answer_is_not_in_the_question():
    batch = text(8, 32)
    first = pose(OBJECTIVE, batch)
    other = np.where(first["hidden"], text(8, 32, seed=1)["tokens"], batch["tokens"])
    assert (other != batch["tokens"]).sum() > 50
    assert (pose(OBJECTIVE, batch | {"tokens": other})["tokens"] == first["tokens"]).all()


def test_gradients_are_finite():
    """Where the mask has no probability, and in rows of nothing but padding."""
    batch = cases.batch(1, rows=4)
    batch["tokens"][1] = VOCAB.pad_id
    batch, (net, params) = pose(OBJECTIVE, batch), net_of(OBJECTIVE)

    @jax.jit
    def gradient(params):
        return jax.grad(lambda p: OBJECTIVE.losses(net, {"params": p}, batch, StepContext(VOCAB)).totals["diffusion"])(
            params
        )

    found = jax.device_get(gradient(params))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    bias = found["head"]["bias"]
    assert bias[VOCAB.mask_id] == 0 and np.abs(bias).max() > 0


def test_mistakes_are_explained():
    for eps in (0.0, 1.0):
        with pytest.raises(ValueError, match="eps must be in"):
            MaskedDiffusion(eps=eps)
