"""T5 against frozen numbers of an independent implementation (tests/fixtures/make_t5_parity.py), and its own laws."""

import functools
from pathlib import Path

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
from ptjax.types import Mask, PairInput, TextInput

FROZEN = dict(np.load(Path(__file__).parent / "fixtures" / "parity_t5.npz"))
VOCAB = 100
SIZE = dict(layers=2, width=20, heads=3, head_dim=6, hidden=32, buckets=8, furthest=16, unroll=False)
CONFIGS = {"1.0": T5(**SIZE), "1.1": T5(**SIZE, gated=True, tied=False)}
BLOCK = {
    "attention_norm": "layer.0.layer_norm",
    "attention.query": "layer.0.SelfAttention.q",
    "attention.key": "layer.0.SelfAttention.k",
    "attention.value": "layer.0.SelfAttention.v",
    "attention.output": "layer.0.SelfAttention.o",
    "cross_norm": "layer.1.layer_norm",
    "cross.query": "layer.1.EncDecAttention.q",
    "cross.key": "layer.1.EncDecAttention.k",
    "cross.value": "layer.1.EncDecAttention.v",
    "cross.output": "layer.1.EncDecAttention.o",
    "mlp_norm": "layer.{mlp}.layer_norm",
    "mlp.up": "layer.{mlp}.DenseReluDense.{up}",
    "mlp.gate": "layer.{mlp}.DenseReluDense.wi_1",
    "mlp.down": "layer.{mlp}.DenseReluDense.wo",
}


def frozen_tree(version: str, kind: str) -> dict:
    """The frozen weights or gradients as a tree of ptjax's parameters; nothing in the vocabulary's padding."""

    def leaf(path, target):
        path = [key.key for key in path]
        name, stacked = ".".join(path[:-1]), "layers" in path
        if path == ["body", "embed", "tokens"]:
            name = "shared"
        elif path == ["head", "table"]:
            name = "lm_head"
        elif path[2] == "bias":
            name = f"{path[1]}.block.0.layer.0.SelfAttention.relative_attention_bias"
        elif path[2] == "norm":
            name = f"{path[1]}.final_layer_norm"
        else:
            part = BLOCK[".".join(path[4:-1])]
            part = part.format(mlp=1 + (path[1] == "decoder"), up="wi_0" if version == "1.1" else "wi")
            name = f"{path[1]}.block.{{}}.{part}"
        values = [FROZEN[f"{version}/{kind}/{name.format(i)}.weight"] for i in range(SIZE["layers"] if stacked else 1)]
        if path[-1] == "kernel" or path[2:3] == ["bias"]:
            values = [value.T for value in values]  # PyTorch's Linear is [out, in]
        value = np.stack(values) if stacked else values[0]
        if name in ("shared", "lm_head"):
            value = np.pad(value, [(0, target.shape[0] - len(value)), (0, 0)])
        return jnp.asarray(value.reshape(target.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes(version))


@functools.cache
def net(version: str):
    return pair_net(CONFIGS[version], VOCAB)


def shapes(version: str):
    return jax.eval_shape(lambda: init(net(version), jax.random.key(0), 8))


def pair(layout: str) -> tuple[PairInput, np.ndarray, np.ndarray]:
    """(inputs, labels [B, T], which of them are real), the documents in rows of their own or all in one row."""

    def part(name, valid, causal):
        tokens, valid = FROZEN[name].astype(np.int32), FROZEN[valid]
        place = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
        if layout == "padded":
            return TextInput(tokens, place, Mask(causal=causal, valid=valid))
        number = np.broadcast_to(np.arange(len(tokens), dtype=np.int32)[:, None], tokens.shape)
        tokens, place, number = (x[valid][None] for x in (tokens, place, number))
        return TextInput(tokens, place, Mask(causal=causal, segments=number))

    inputs = PairInput(part("source", "source_valid", False), part("target", "target_valid", True))
    labels, valid = FROZEN["labels"].astype(np.int32), FROZEN["target_valid"]
    if layout == "packed":
        labels, valid = labels[valid][None], np.ones((1, valid.sum()), bool)
    return inputs, labels, valid


@functools.cache
def answered(version: str, layout: str):
    """(logits at real target positions [N, V], loss, its gradient) of the frozen weights."""
    inputs, labels, valid = pair(layout)

    def loss(params):
        hidden = net(version).apply({"params": params}, inputs, method="hidden").last[valid]
        logits = net(version).apply({"params": params}, hidden, method="logits")
        scores = net(version).apply({"params": params}, hidden, method="scores")
        return cross_entropy(*scores, labels[valid], size=VOCAB).loss.mean(), logits

    (value, logits), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(frozen_tree(version, "weight"))
    return np.asarray(logits)[:, :VOCAB], float(value), jax.device_get(gradient)


CASES = pytest.mark.parametrize("version,layout", [("1.0", "padded"), ("1.1", "padded"), ("1.1", "packed")])


@CASES
def test_logits_and_loss(version, layout):
    logits, loss, _ = answered(version, layout)
    assert FROZEN[f"{version}/logits"].std() > 0.5  # there is something to compare
    np.testing.assert_allclose(logits, FROZEN[f"{version}/logits"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(loss, FROZEN[f"{version}/loss"], rtol=1e-4)


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_gradient(layout):
    """Through biases and encoder output too, which all layers of the scan share."""
    gradient, frozen = answered("1.1", layout)[2], frozen_tree("1.1", "gradient")
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(frozen))

    def check(path, ours, theirs):
        atol = 1e-3 * np.abs(theirs).max() + 1e-6 * largest
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol, err_msg=jax.tree_util.keystr(path))

    jax.tree_util.tree_map_with_path(check, gradient, frozen)


@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_buckets(half):
    ours = buckets_of(np.arange(-300, 301), bidirectional=half == "encoder", buckets=32, furthest=128)
    assert (ours == FROZEN[f"buckets/{half}"]).all()


def test_initial_deviations():
    """Of every kernel as published, where they differ: queries are smaller by head_dim ** -0.5."""
    config = T5(**SIZE | dict(width=96, hidden=160, head_dim=16), gated=True, tied=False)
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
    config = chz.replace(CONFIGS["1.0"], dropout=0.1, attention_dropout=0.1)
    inputs, params = pair("padded")[0], frozen_tree("1.0", "weight")
    run = lambda train: pair_net(config, VOCAB).apply(
        {"params": params}, inputs, train=train, rngs={"dropout": jax.random.key(0)}, method="hidden"
    )
    still, dropped = jax.jit(lambda: (run(False).last, run(True).last))()
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
