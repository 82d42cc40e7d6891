"""What must not change a model's numbers: how its layers are run, what is recomputed, a cache, the compute type."""

import chz
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptjax.config import UserError
from ptjax.models import ALBERT, BERT, ELECTRA, GPT, RoBERTa
from ptjax.models.heads import init, language_model, new_cache
from ptjax.types import Mask, TextInput

SIZE = dict(layers=3, width=32, heads=2, hidden=64, max_length=32, unroll=False)
TOKENS = np.random.default_rng(0).integers(0, 300, (2, 16)).astype(np.int32)
POSITIONS = np.broadcast_to(np.arange(16, dtype=np.int32), (2, 16))


def logits(config, params, *, causal, train=False):
    net = language_model(config, 300, transform=True, bias=True)
    inputs = TextInput(TOKENS, POSITIONS, Mask(causal=causal))

    def run(params):
        hidden = net.apply(
            {"params": params}, inputs, train=train, rngs={"dropout": jax.random.key(0)}, method="hidden"
        )
        return net.apply({"params": params}, hidden.last, method="logits")

    values, gradient = jax.jit(lambda p: (run(p), jax.grad(lambda p: jnp.sum(jnp.tanh(run(p))))(p)))(params)
    return np.asarray(values), jax.device_get(gradient)


@pytest.fixture(scope="module", params=[BERT, GPT], ids=["bert", "gpt"])
def model(request):
    config = request.param(**SIZE)
    params = jax.jit(lambda: init(language_model(config, 300, transform=True, bias=True), jax.random.key(1), 16))()
    return config, params, logits(config, params, causal=False)


@pytest.mark.parametrize("change", [dict(unroll=True), dict(remat="full"), dict(remat="dots", unroll=True)], ids=str)
def test_how_layers_run_does_not_matter(model, change):
    config, params, (expected, gradient) = model
    values, other = logits(chz.replace(config, **change), params, causal=False)
    np.testing.assert_allclose(values, expected, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), gradient, other)


def test_bfloat16_is_close(model):
    config, params, (expected, _) = model
    values, gradient = logits(chz.replace(config, dtype="bfloat16"), params, causal=False)
    assert np.abs(values - expected).max() < 0.05 * np.abs(expected).max()
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(gradient))


def test_dropout_only_in_training(model):
    config, params, (expected, _) = model
    assert (logits(config, params, causal=False)[0] == expected).all()
    assert np.abs(logits(config, params, causal=False, train=True)[0] - expected).max() > 1e-2


def test_cache_in_any_pieces(model):
    config, params, _ = model
    net = language_model(config, 300, transform=True, bias=True)
    expected, _ = logits(config, params, causal=True)
    cache, parts, first = new_cache(config, 2, 16), [], 0

    @jax.jit
    def read(inputs, cache):
        hidden = net.apply({"params": params}, inputs, cache, method="hidden")
        return net.apply({"params": params}, hidden.last, method="logits"), hidden.state

    for length in (7, 1, 8):
        piece = slice(first, first + length)
        part, cache = read(TextInput(TOKENS[:, piece], POSITIONS[:, piece], Mask(causal=True)), cache)
        first += length
        parts.append(part)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), expected, atol=1e-5)


def test_published_sizes():
    """Parameters of the published models, without heads and poolers, as transformers makes them. The papers round,
    and count those."""

    def millions(config, vocab):
        shapes = jax.eval_shape(
            lambda: config.build(vocab).init(jax.random.key(0), TextInput(TOKENS, TOKENS, Mask()), train=False)
        )
        return sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) / 1e6

    assert millions(BERT.preset("base"), 30522) == pytest.approx(108.89, abs=0.01)
    assert millions(BERT.preset("large"), 30522) == pytest.approx(334.09, abs=0.01)
    assert millions(RoBERTa.preset("base"), 50265) == pytest.approx(124.06, abs=0.01)
    assert millions(RoBERTa.preset("large"), 50265) == pytest.approx(354.31, abs=0.01)
    assert millions(ALBERT.preset("base"), 30000) == pytest.approx(11.09, abs=0.01)
    assert millions(ALBERT.preset("large"), 30000) == pytest.approx(16.63, abs=0.01)
    assert millions(ALBERT.preset("xlarge"), 30000) == pytest.approx(54.53, abs=0.01)
    assert millions(ALBERT.preset("xxlarge"), 30000) == pytest.approx(205.81, abs=0.01)
    assert millions(ELECTRA.preset("small"), 30522) == pytest.approx(13.48, abs=0.01)
    assert millions(ELECTRA.preset("base"), 30522) == pytest.approx(108.89, abs=0.01)
    assert millions(ELECTRA.preset("large"), 30522) == pytest.approx(334.09, abs=0.01)
    assert millions(GPT.preset("124M"), 50257) == pytest.approx(124.44, abs=0.01)
    assert millions(GPT.preset("1.5B"), 50257) == pytest.approx(1557.61, abs=0.01)


def test_impossible_sizes():
    with pytest.raises(UserError, match="tiny, mini, small, medium, base, large"):
        BERT.preset("huge")
    with pytest.raises(ValueError, match="width=30 is not divisible by heads=4"):
        BERT(width=30, heads=4)
    with pytest.raises(UserError, match="model.max_length=64"):
        BERT(max_length=32).check_length(64)


def test_mask_structure_is_checked():
    with pytest.raises(TypeError, match="static"):
        Mask(causal=jnp.array(True))
