"""Replaced token detection against formulas written out, and what its two nets may know of each other."""

import functools
import math

import chz
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ptjax.config import UserError
from ptjax.models import BERT, GPT, Llama, TransformerXL, XLNet
from ptjax.models.electra_net import generator_config, sample
from ptjax.models.heads import init
from ptjax.objectives.base import CorruptContext, StepContext
from ptjax.objectives.rtd import RTD
from tests.contracts import cases

SIZE = cases.SIZE | dict(width=32, heads=4, hidden=64)
BODIES = {"bert": BERT(**SIZE), "gpt": GPT(**SIZE), "xl": TransformerXL(**SIZE), "xlnet": XLNet(**SIZE)}
OBJECTIVE = RTD(rate=0.3, generator=0.5)
VOCAB = cases.VOCAB


@jax.jit
def pose(batch, keys):
    return OBJECTIVE.corrupt(batch, CorruptContext(VOCAB, keys, keys, jnp.int32(0), jnp.float32(0)))


def posed():
    return pose(cases.batch(0, rows=4, length=24), jax.random.split(jax.random.key(0), 4))


@functools.cache
def initial(body):
    net = OBJECTIVE.net(BODIES[body], VOCAB)
    return net, jax.jit(lambda key: init(net, key, 24))(jax.random.key(0))


class Scripted:
    """A net that answers what it was told, and remembers what the discriminator was shown."""

    def __init__(self, features_BLG, table, bias, logit_BL):
        self.features_BLG, self.table, self.bias, self.logit_BL = features_BLG, table, bias, logit_BL

    def apply(self, variables, x, *, method, **_):
        if method == "generated":
            return self.features_BLG, {}
        if method == "generator_scores":
            return x, self.table, self.bias
        self.shown = np.asarray(x.tokens)
        return self.logit_BL, {}


def test_losses_are_electras():
    """Binary and multi-class cross-entropy written as loops, from the same logits."""
    batch, random = posed(), np.random.default_rng(0)
    rows, length = batch["original"].shape
    padded, width = BODIES["bert"].padded_vocab(VOCAB.size), 8
    draw = lambda *shape: jnp.asarray(random.normal(size=shape), jnp.float32)
    net = Scripted(draw(rows, length, width), draw(padded, width), draw(padded), 3 * draw(rows, length))
    result = OBJECTIVE.losses(net, None, batch, StepContext(VOCAB))
    weights = OBJECTIVE.weights(batch, VOCAB)

    original, shown = np.asarray(batch["original"]), net.shown
    generator, chosen, right, asked = 0.0, 0, 0, np.zeros((rows, length), bool)
    for b in range(rows):
        for position, weight in zip(batch["positions"][b], batch["weights"][b]):
            if weight == 0:
                continue
            row = np.asarray(net.features_BLG[b, position] @ net.table.T + net.bias, np.float64)[: VOCAB.size]
            generator -= row[original[b, position]] - np.log(np.exp(row).sum())
            right += row.argmax() == original[b, position]
            chosen, asked[b, position] = chosen + 1, True
    detection, counts = 0.0, dict(real=0, accuracy=0, replaced=0, recall=0)
    for b in range(rows):
        for i in range(length):
            if original[b, i] == VOCAB.pad_id:
                continue
            yes, probability = shown[b, i] != original[b, i], 1 / (1 + math.exp(-float(net.logit_BL[b, i])))
            detection -= math.log(probability if yes else 1 - probability)
            counts["real"] += 1
            counts["accuracy"] += (probability > 0.5) == yes
            counts["replaced"] += yes
            counts["recall"] += yes and probability > 0.5
    assert asked.any() and counts["replaced"] and counts["recall"]
    assert result.totals == pytest.approx({"generator": generator, "discriminator": detection}, rel=1e-5)
    assert weights == pytest.approx({"generator": chosen, "discriminator": counts["real"]})
    shares = {k: float(s / w) for k, (s, w) in result.metrics.items()}
    assert shares == pytest.approx(
        {
            "accuracy": counts["accuracy"] / counts["real"],
            "replaced": counts["replaced"] / counts["real"],
            "recall": counts["recall"] / counts["replaced"],
            "generator_nll": generator / chosen,
            "generator_accuracy": right / chosen,
        },
        rel=1e-5,
    )
    # The discriminator sees the text with samples of ordinary pieces at the chosen positions, and no mask.
    assert (shown[~asked] == original[~asked]).all()
    assert not np.isin(shown[asked], VOCAB.special_ids).any() and not (shown == VOCAB.mask_id).any()
    assert not np.isin(original[asked], VOCAB.special_ids).any()


def test_a_lucky_sample_is_original():
    """A generator that is sure of the answer leaves nothing to find."""
    batch = posed()
    rows, length = batch["original"].shape
    width = BODIES["bert"].padded_vocab(VOCAB.size)
    features = 50.0 * jax.nn.one_hot(batch["original"], width)
    net = Scripted(features, jnp.eye(width), jnp.zeros(width), jnp.full((rows, length), -1.0))
    result = OBJECTIVE.losses(net, None, batch, StepContext(VOCAB))
    assert (net.shown == batch["original"]).all() and (batch["tokens"] != batch["original"]).any()
    assert float(result.metrics["replaced"][0]) == 0
    real = float(result.metrics["replaced"][1])
    assert float(result.totals["discriminator"]) == pytest.approx(real * math.log1p(math.exp(-1)), rel=1e-5)


def test_samples_follow_the_softmax():
    draws, size, special = 20_000, 9, 2
    random = np.random.default_rng(0)
    features, table, bias = (random.normal(size=s).astype(np.float32) for s in ((2, 5), (size + 3, 5), (size + 3,)))
    allowed = (np.arange(size + 3) >= special) & (np.arange(size + 3) < size)
    keys = jax.random.key_data(jax.random.split(jax.random.key(1), draws))
    features_BPD = jnp.broadcast_to(features, (draws, 2, 5))
    drawn = np.asarray(jax.jit(sample)(keys, features_BPD, table, bias, allowed))
    for p in range(2):
        scores = np.exp((features[p] @ table.T + bias)[special:size].astype(np.float64))
        counts = np.bincount(drawn[:, p], minlength=size + 3)
        assert counts[special:size].sum() == draws, "only what is allowed is drawn"
        expected = draws * scores / scores.sum()
        assert stats.chisquare(counts[special:size], expected).pvalue > 1e-3
        assert stats.chisquare(counts[special:size]).pvalue < 1e-9, "flat logits would make this test empty"
    # Positions of a row are drawn independently of each other.
    assert stats.chi2_contingency(stats.contingency.crosstab(drawn[:, 0], drawn[:, 1]).count).pvalue > 1e-3


def test_noise_is_the_rows_own():
    """Whatever the batch around it: that is what makes meshes, accumulation and resumed runs draw alike."""
    batch, keys = cases.batch(0, rows=4, length=24), jax.random.split(jax.random.key(3), 4)
    whole, order = pose(batch, keys), np.array([2, 0])
    part = pose({k: v[order] for k, v in batch.items()}, keys[order])
    for name in ("noise", "tokens", "positions", "weights"):
        np.testing.assert_array_equal(whole[name][order], part[name], err_msg=name)
    assert len(np.unique(np.asarray(whole["noise"]), axis=0)) == 4


def test_the_nets_share_the_table_and_nothing_else():
    net, params = initial("bert")
    batch = posed()

    def totals(params):
        losses = OBJECTIVE.losses(net, {"params": params}, batch, StepContext(VOCAB))
        return losses.totals["generator"], losses.totals["discriminator"]

    def gradients(params):
        _, pull = jax.vjp(totals, params)
        return pull((1.0, 0.0))[0], pull((0.0, 1.0))[0]

    generator, discriminator = jax.jit(gradients)(params)
    moved = lambda tree: any(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(tree))
    assert "embed" not in params["generator"], "the generator reads the discriminator's embedding"
    assert set(params) == {"body", "generator", "generator_projection", "generator_head", "discriminator_head"}
    for name in ("generator", "generator_projection", "generator_head"):
        assert moved(generator[name]) and not moved(discriminator[name]), name
    for tree in (generator["body"]["layers"], generator["discriminator_head"]):
        assert not moved(tree)
    assert moved(discriminator["body"]["layers"]) and moved(discriminator["discriminator_head"])
    assert moved(generator["body"]["embed"]["tokens"]) and moved(discriminator["body"]["embed"]["tokens"])


@pytest.mark.parametrize("body", BODIES)
def test_fits_every_text_body(body):
    """Traced, not run: shapes meet, and the generator of no family makes a table of its own."""
    net = OBJECTIVE.net(BODIES[body], VOCAB)
    params = jax.eval_shape(lambda: init(net, jax.random.key(0), 24))
    tables = [leaf.shape for leaf in jax.tree.leaves(params) if 384 in leaf.shape]
    assert sorted(tables) == [(384,), (384, 32)], "the generator's output bias, and one table"
    losses = lambda params: OBJECTIVE.losses(net, {"params": params}, posed(), StepContext(VOCAB, jax.random.key(1)))
    assert set(jax.eval_shape(losses, params).totals) == {"generator", "discriminator"}


def test_documents_do_not_meet():
    net, params = initial("bert")
    batch = posed()
    tokens = jnp.full((1, 12), 50).at[0, 5].set(VOCAB.boundary_id)
    read = lambda tokens: OBJECTIVE.inputs(dict(batch, tokens=tokens, original=tokens), VOCAB)

    @jax.jit
    def answers(params, tokens):
        inputs = read(tokens)
        apply = functools.partial(net.apply, {"params": params}, inputs)
        return apply(method="generated"), apply(method="detect")

    before, after = answers(params, tokens), answers(params, tokens.at[0, 1].set(77))
    for a, b in zip(before, after):
        np.testing.assert_array_equal(a[:, 6:], b[:, 6:])
        assert (a[:, :5] != b[:, :5]).any()


def test_asks_as_much_as_it_says():
    length = 40
    tokens = np.arange(2 * length).reshape(2, length) % 200 + 50
    batch = {"index": np.arange(2), "tokens": tokens.astype(np.int32)}
    weights = OBJECTIVE.weights(pose(batch, jax.random.split(jax.random.key(0), 2)), VOCAB)
    assert {k: float(v) for k, v in weights.items()} == {k: 2 * v for k, v in OBJECTIVE.predicted(length).items()}
    assert OBJECTIVE.projected(length) == 12


def test_counts_the_matrix_products_of_both_nets():
    """By the shapes of the kernels: every one is applied to every position but the generator's head, which reads the
    chosen; attention adds two products of length by width a layer and position."""
    _, params = initial("bert")
    length, body, chosen = 32, BODIES["bert"], 10
    small = generator_config(body, OBJECTIVE.generator)
    kernels = lambda tree: sum(
        leaf.size for path, leaf in jax.tree_util.tree_leaves_with_path(tree) if "kernel" in jax.tree_util.keystr(path)
    )
    head = kernels(params["generator_head"])
    everywhere = kernels(params) - head
    attention = 4 * length**2 * body.layers * (body.width + small.width)
    expected = 2 * length * everywhere + attention
    expected += 2 * chosen * (head + body.width * body.padded_vocab(VOCAB.size))
    assert OBJECTIVE.flops_per_row(body, length, VOCAB) == expected


def test_the_generators_size():
    base = BERT.preset("base")
    small = generator_config(base, 1 / 3)  # as ELECTRA-Base has it: 4 heads of 64
    assert (small.width, small.heads, small.hidden, small.layers) == (256, 4, 1024, 12)
    assert generator_config(BERT.preset("tiny"), 0.25).heads == 1
    assert generator_config(base, 1.0) == base
    assert generator_config(base, 1.0, 0.5) == chz.replace(base, layers=6)  # as DeBERTaV3-base has it
    with pytest.raises(UserError, match="objective.generator=0.3 .* 4/12 = 0.333333 would fit"):
        generator_config(chz.replace(base, width=780), 0.3)
    llama = Llama(width=64, heads=8, hidden=128, kv_heads=4)
    assert generator_config(llama, 0.25) == chz.replace(llama, width=16, heads=2, hidden=32, kv_heads=1)
    shared = generator_config(Llama.preset("llama3.1-70B"), 1 / 32)  # two heads, which cannot share one of eight keys
    assert (shared.heads, shared.kv_heads) == (2, 2)
    with pytest.raises(UserError, match="objective.generator=0.125 .* heads of size 3 cannot turn"):
        generator_config(Llama(width=24, heads=4, hidden=48), 0.125)
    for wrong in (dict(generator=0.0), dict(depth=1.5), dict(rate=1.5), dict(mask_share=-0.1), dict(coefficient=-1.0)):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            RTD(**wrong)


def test_the_baseline_is_a_coin():
    assert OBJECTIVE.trivial({"replaced": 0.5}, 7.0)[2] == pytest.approx(math.log(2))
    assert OBJECTIVE.trivial({"replaced": 0.0}, 7.0)[2] == 0
    name, _, value = OBJECTIVE.trivial({"replaced": 0.1}, 7.0)
    assert name == "loss/discriminator" and value == pytest.approx(0.32508297)
