"""T5's own laws, beside those of all families (tests/interop/test_families.py), on the fixtures of these."""

import chz
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptjax.models import T5
from ptjax.models.heads import init
from ptjax.models.pairs import pair_net
from ptjax.nn.relative_bias import buckets_of
from ptjax.objectives.cross_entropy import cross_entropy
from tests.interop import parity

VERSIONS = {"1.0": "t5", "1.1": "t5_1_1"}  # their fixtures
each_version = pytest.mark.parametrize("version", VERSIONS)


@each_version
def test_layers_in_a_loop(version):
    """The published numbers, biases and encoder output, which all layers share, going through a loop."""
    case = parity.frozen(VERSIONS[version], unroll=False)
    for layout in parity.LAYOUTS:
        case.check_outputs(layout)
        case.check_gradients(layout)


@each_version
def test_loss(version):
    """The cross-entropy, which has its own way to logits and to a gradient, is that of the published logits."""
    case, random = parity.frozen(VERSIONS[version]), np.random.default_rng(0)
    features = random.normal(0, 3, (12, case.config.width)).astype(np.float32)
    labels = random.integers(0, case.rows, 12)

    def of_scores(params, h_ND):
        scores = case.net.apply({"params": params}, h_ND, method="scores")
        return cross_entropy(*scores, labels, size=case.rows).loss.mean()

    def of_logits(params, h_ND):
        logits = case.net.apply({"params": params}, h_ND, method="logits")[:, : case.rows]
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1).mean()

    ours, expected = (jax.jit(jax.value_and_grad(of, (0, 1)))(case.params, features) for of in (of_scores, of_logits))
    assert expected[0] > 1 and np.abs(expected[1][1]).max() > 1e-2
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), ours, expected)


@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_buckets(half):
    ours = buckets_of(np.arange(-300, 301), bidirectional=half == "encoder", buckets=32, furthest=128)
    assert (ours == parity.frozen("t5").expected("buckets")[half]).all()


def test_initial_deviations():
    """Of every kernel as published, where they differ: queries are smaller by head_dim ** -0.5."""
    config = T5(layers=2, width=96, heads=3, head_dim=16, hidden=160, gated=True, tied=False, unroll=False)
    params = jax.jit(lambda: init(pair_net(config, 600), jax.random.key(0), 8))()
    block, body = params["body"]["decoder"]["layers"]["block"], params["body"]
    expected = [
        (body["embed"]["tokens"], 1.0),
        (params["head"]["table"], 96**-0.5),
        (block["mlp"]["up"]["kernel"], 96**-0.5),
        (block["mlp"]["gate"]["kernel"], 96**-0.5),
        (block["mlp"]["down"]["kernel"], 160**-0.5),
    ]
    for kind in ("attention", "cross"):
        expected += [
            (block[kind]["query"]["kernel"], (96 * 16) ** -0.5),
            (block[kind]["key"]["kernel"], 96**-0.5),
            (block[kind]["value"]["kernel"], 96**-0.5),
            (block[kind]["output"]["kernel"], (3 * 16) ** -0.5),
        ]
    for leaf, std in expected:
        assert np.std(leaf) == pytest.approx(std, rel=5 / (2 * leaf.size) ** 0.5)


def test_published_sizes():
    """Parameters of the released checkpoints in millions, whose vocabulary has 32128 rows."""

    def millions(size, version):
        config = T5.preset(size, version)
        tree = jax.eval_shape(lambda: init(pair_net(config, 32128), jax.random.key(0), 8))
        return sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(tree)) / 1e6

    assert millions("small", "1.0") == pytest.approx(60.51, abs=0.01)
    assert millions("base", "1.0") == pytest.approx(222.90, abs=0.01)
    assert millions("large", "1.0") == pytest.approx(737.67, abs=0.01)
    assert millions("3B", "1.0") == pytest.approx(2851.60, abs=0.01)
    assert millions("11B", "1.0") == pytest.approx(11307.32, abs=0.01)
    assert millions("small", "1.1") == pytest.approx(76.96, abs=0.01)
    assert millions("base", "1.1") == pytest.approx(247.58, abs=0.01)
    assert millions("large", "1.1") == pytest.approx(783.15, abs=0.01)
    assert millions("xl", "1.1") == pytest.approx(2849.76, abs=0.01)
    assert millions("xxl", "1.1") == pytest.approx(11135.33, abs=0.01)


def test_dropout_only_in_training():
    case = parity.frozen("t5")
    config = chz.replace(case.config, dropout=0.1, attention_dropout=0.1)
    run = lambda params, train: pair_net(config, case.rows).apply(
        {"params": params}, case.inputs(), train=train, rngs={"dropout": jax.random.key(0)}, method="hidden"
    )
    still, dropped = jax.jit(lambda params: (run(params, False).last, run(params, True).last))(case.params)
    assert np.abs(still - dropped).max() > 1e-2
    # What is dropped at the end is dropped as published: some outputs are exactly zero.
    assert 0.05 < np.mean(np.asarray(dropped) == 0) < 0.15 and (np.asarray(still) != 0).all()


def test_flops_count_the_kernels():
    """Without attention's own products, each kernel costs two FLOPs a weight and token that it meets."""
    config = T5.preset("base", "1.1")
    kernels = 2.0 * config.layers * (4 * 768 * 768 + 3 * 768 * 2048)
    crossed = 2.0 * config.layers * 4 * 768 * 768
    assert config.flops_per_pair(1, 1) == pytest.approx(2 * kernels + crossed, rel=1e-3)


def test_impossible_sizes():
    with pytest.raises(ValueError, match="buckets must be a multiple of 4"):
        T5(buckets=6)
    with pytest.raises(ValueError, match="furthest=16 must be above"):
        T5(furthest=16)
