"""Mixtures of experts: the layer against its formulas, on meshes, and what it adds to the loss of a step."""

import functools

import chz
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec as P

from ptjax import check, partition
from ptjax.config import UserError, from_json, load, override, to_json
from ptjax.learner import Learner
from ptjax.models import T5, Llama, XLNet
from ptjax.models.base import TextModelConfig
from ptjax.models.feed_forward import Experts
from ptjax.models.heads import init, language_model, new_cache
from ptjax.nn.moe import MoE, arranged, block_size
from ptjax.nn.stack import Stack
from ptjax.objectives.base import StepContext
from ptjax.optim import AdamW, Constant
from ptjax.partition import MeshConfig, Rules, make_mesh
from ptjax.summary import active
from ptjax.types import Hidden, Mask, TextInput
from tests.contracts import cases
from tests.interop import parity

B, L, D, F, E, K = 16, 6, 8, 12, 4, 2
X = np.random.default_rng(0).normal(size=(B, L, D)).astype(np.float32)
VALID = np.random.default_rng(1).random((B, L)) < 0.7


def layer(**changes) -> MoE:
    return MoE(**(dict(width=D, hidden=F, count=E, chosen=K, activation=jax.nn.silu, std=0.5, out_std=0.5) | changes))


@functools.cache
def params(**changes):
    shapes = jax.eval_shape(lambda: nn.meta.unbox(layer(**changes).init(jax.random.key(0), X)["params"]))
    random = np.random.default_rng(4)
    return jax.tree.map(lambda leaf: random.normal(0, 0.5, leaf.shape).astype(np.float32), shapes)


def answer(params, x, valid=VALID, **changes):
    """(what the layer says, what it sows)."""
    y, sown = layer(**changes).apply({"params": params}, x, valid, mutable=["auxiliary"])
    return y, {name: value for name, (value,) in sown["auxiliary"].items()}


def loss(params, x, valid=VALID, **changes):
    y, sown = answer(params, x, valid, **changes)
    return jnp.sum(jnp.tanh(y) * jnp.arange(1, D + 1)) / B + 3 * sown["balance"] + sown["router_z"], (y, sown)


def reference(params, renormalise: bool, gated: bool):
    """The same, token by token."""
    kernels = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    up, down = (kernels["experts"][name]["kernel"] for name in ("up", "down"))
    silu = lambda x: x / (1 + np.exp(-x))
    y, used, likely, squares = np.zeros(X.shape), np.zeros(E), np.zeros(E), []
    for row in range(B):
        for at in range(L):
            x = X[row, at].astype(np.float64)
            logits = x @ kernels["router"]["kernel"]
            p = np.exp(logits) / np.exp(logits).sum()
            best = np.argsort(-p)[:K]
            for e in best:
                h = silu(x @ up[e]) * (x @ kernels["experts"]["gate"]["kernel"][e] if gated else 1)
                y[row, at] += p[e] / (p[best].sum() if renormalise else 1) * (h @ down[e])
            if VALID[row, at]:
                used[best] += 1
                likely += p
                squares.append(np.log(np.exp(logits).sum()) ** 2)
    used, likely = used / VALID.sum(), likely / VALID.sum()
    return y, {"balance": E * used @ likely, "router_z": np.mean(squares), "busiest": used.max()}


@pytest.mark.parametrize("kind", [dict(renormalise=True, gated=True), dict(renormalise=False, gated=False)], ids=str)
def test_the_formulas(kind):
    y, sown = jax.jit(functools.partial(answer, **kind))(params(**kind), X)
    expected, losses = reference(params(**kind), **kind)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    assert np.std(expected) > 0.1 and losses["busiest"] > 1.02 * K / E and abs(losses["balance"] - K) > 1e-3
    assert sown.keys() == losses.keys()
    for name, value in losses.items():
        assert float(sown[name]) == pytest.approx(value, rel=1e-5), name


def test_ends_of_the_balance_loss():
    """`chosen` where all experts are used alike, `count` where one answers all; and 0, not NaN, of padding alone."""
    run = jax.jit(lambda router, x, valid: answer(params() | {"router": {"kernel": router}}, x, valid, chosen=1)[1])
    first = jnp.zeros((D, E)).at[:, 0].set(100.0)
    sown = run(first, np.abs(X), VALID)
    assert float(sown["balance"]) == pytest.approx(E) and float(sown["busiest"]) == 1
    assert set(map(float, run(first, np.abs(X), np.zeros_like(VALID)).values())) == {0.0}
    each_in_turn = np.eye(D, dtype=np.float32)[np.arange(B * L) % E].reshape(X.shape)
    sown = run(50 * jnp.eye(D, E), each_in_turn, np.ones_like(VALID))
    assert float(sown["balance"]) == pytest.approx(1) and float(sown["busiest"]) == pytest.approx(1 / E)


@pytest.mark.parametrize("experts,block", [(4, 8), (7, 1), (3, 4)])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_every_choice_has_a_place_with_its_expert(experts, block, share):
    """share: of the choices that fall on one expert, or on none that is here."""
    random = np.random.default_rng(3)
    for lonely in (1, experts, -2):
        choice_M = random.integers(-1, experts + 1, 50)
        choice_M[random.random(50) < share] = lonely
        slot_M, source_S, expert_G, used = map(np.asarray, arranged(jnp.asarray(choice_M), experts, block))
        here_M = (choice_M >= 0) & (choice_M < experts)
        assert (slot_M[~here_M] == len(source_S)).all() and len(source_S) == block * len(expert_G)
        assert len(set(slot_M[here_M])) == here_M.sum()
        assert (source_S[slot_M[here_M]] == np.flatnonzero(here_M)).all()
        assert (expert_G[slot_M[here_M] // block] == choice_M[here_M]).all()
        sizes = np.bincount(choice_M[here_M], minlength=experts)
        assert used == np.ceil(sizes / block).sum() <= len(expert_G)
        assert (slot_M[here_M] < used * block).all()


def test_blocks_are_neither_small_nor_mostly_empty():
    assert [block_size(choices, 8) for choices in (2, 100, 2048, 2**20)] == [8, 8, 128, 512]


def test_rows_do_not_touch_each_other():
    order = np.random.default_rng(2).permutation(B)
    run = jax.jit(lambda x, valid: answer(params(), x, valid))
    (y, sown), (other, same) = run(X, VALID), run(X[order], VALID[order])
    np.testing.assert_allclose(other, np.asarray(y)[order], rtol=1e-6, atol=1e-6)
    for name in sown:
        assert float(sown[name]) == pytest.approx(float(same[name]), rel=1e-6), name


def test_experts_that_no_token_chooses_learn_nothing():
    router = jnp.zeros((D, E)).at[:, jnp.array([1, 3])].set(1.0)  # of positive tokens they get them all
    gradient = jax.jit(jax.grad(loss, has_aux=True))(params() | {"router": {"kernel": router}}, np.abs(X))[0]
    for name, kernel in gradient["experts"].items():
        assert (kernel["kernel"][jnp.array([0, 2])] == 0).all(), name
        assert (jnp.abs(kernel["kernel"][jnp.array([1, 3])]).max(axis=(1, 2)) > 1e-4).all(), name


@pytest.mark.parametrize(
    "config",
    [
        MeshConfig(data=2, expert=2, tensor=2),
        MeshConfig(data=4, tensor=2, rules=Rules(experts="tensor", mlp=None)),
        MeshConfig(data=2, fsdp=2, expert=2, rules=Rules(experts=None)),
    ],
    ids=["data x expert x tensor", "experts by tensor", "experts whole"],
)
def test_a_mesh_gives_the_same(config):
    """Answers, what is sown, and gradients of kernels and tokens."""

    def on_mesh(params, x):
        with partition.use(make_mesh(config), config.rules):
            return jax.value_and_grad(loss, (0, 1), has_aux=True)(params, x)

    compare = lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5 * np.abs(a).max())
    jax.tree.map(compare, alone(), jax.jit(on_mesh)(params(), X))


@functools.cache
def alone():
    return jax.device_get(jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params(), X))


# In a body.

BODY = chz.replace(cases.BODIES["mixtral"], **cases.SIZE | dict(kv_heads=2, experts=Experts(count=E)))


def experiment(balance: float, router_z: float, **changes):
    body = chz.replace(BODY, experts=chz.replace(BODY.experts, balance=balance, router_z=router_z))
    return cases.experiment("causal", body, **changes)


def test_where_experts_live():
    mesh = MeshConfig(data=1, fsdp=2, expert=2, tensor=2)
    _, places = Learner(experiment(0.01, 0.0, mesh=mesh), cases.VOCAB).shardings(make_mesh(mesh))
    mlp = jax.tree.map(lambda place: place.spec, places.params["body"]["layers"]["block"]["mlp"])
    assert mlp["experts"]["up"]["kernel"] == P(None, "expert", "fsdp", "tensor") == mlp["experts"]["gate"]["kernel"]
    assert mlp["experts"]["down"]["kernel"] == P(None, "expert", "tensor", "fsdp")
    odd = chz.replace(BODY, experts=Experts(count=3))
    with pytest.raises(UserError, match="has 3 along 'experts', which mesh.expert=2 does not divide"):
        Learner(cases.experiment("causal", odd), cases.VOCAB).shardings(make_mesh(mesh))


class Sowing(nn.Module):
    """A body of a table alone, whose auxiliary loss is no sum over examples: the squared mean of all that it reads."""

    vocab_size: int

    def setup(self):
        draw = nn.with_logical_partitioning(nn.initializers.normal(1.0), ("vocab", "table"))
        self.tokens = self.param("tokens", draw, (self.vocab_size, 32))
        self.layers = Stack(Squared(parent=None), 2, unroll=False, remat="none")

    def __call__(self, inputs, state=None, *, train):
        x_BLD, _ = self.layers(self.tokens[inputs.tokens], inputs.mask, state, train)
        return Hidden(x_BLD)

    def table(self):
        return self.tokens


class Squared(nn.Module):
    def setup(self):
        self.scale = self.param("scale", nn.with_logical_partitioning(nn.initializers.normal(1.0), ()), ())

    def __call__(self, x_BLD, mask, cache, train):
        self.sow("auxiliary", "square", (self.scale * x_BLD).mean() ** 2)
        self.sow("auxiliary", "shown", self.scale)
        return x_BLD, cache


@chz.chz
class SowingConfig(TextModelConfig):
    @property
    def auxiliary(self):
        return {"square": 70.0, "absent": 1.0}

    def build(self, vocab_size):
        return Sowing(vocab_size)


def test_parts_of_a_batch_have_their_own_auxiliary_losses_and_the_mean_counts():
    """Under pmap with accumulation: sixteen parts of a row each. Of two layers the mean counts too."""
    layout = dict(accumulation=2, mesh=MeshConfig(layout="pmap"))
    trainer, rows = cases.Trainer(cases.experiment("causal", SowingConfig(**cases.SIZE), **layout)), cases.batch()
    learner, start, rate = trainer.learner, trainer.params, 0.5
    metrics = trainer.train([rows])

    def minimised(params):
        """By the formula."""
        body = params["body"]
        scale_N = body["layers"]["block"]["scale"]
        x_B = body["tokens"][rows["tokens"]].mean(axis=(1, 2))
        square = jnp.mean((scale_N[:, None] * x_B) ** 2)
        total = learner.objective.losses(learner.net, {"params": params}, rows, StepContext(cases.VOCAB)).totals
        loss = total["causal"] / learner.objective.weights(rows, cases.VOCAB)["causal"]
        return loss + 70 * square, {"loss": loss, "auxiliary/square": square, "auxiliary/shown": scale_N.mean()}

    gradient, shown = jax.jit(jax.grad(minimised, has_aux=True))(start)
    assert {name for name in metrics if name.startswith("auxiliary/")} < shown.keys()
    for name, value in shown.items():  # the loss is the objective's, comparable with any body's
        assert metrics[name] == pytest.approx(float(value), rel=1e-5), name
    expected = jax.tree.map(lambda p, g: p - rate * g, start, gradient)
    assert cases.distance(expected, trainer.params) < 2e-5
    assert np.abs(gradient["body"]["layers"]["block"]["scale"]).min() > 1e-3  # from the auxiliary loss alone


def test_laws_of_layouts_skip_what_they_cannot_ask():
    results = list(check.check(cases.experiment("causal", SowingConfig(**cases.SIZE)), {"pmap": check.LAWS["pmap"]}))
    assert [result.note for result in results] == ["the body has losses that are no sums over examples"]


def test_a_body_without_experts_shows_nothing():
    learner = Learner(cases.experiment("causal", "gpt"), cases.VOCAB)
    state = jax.eval_shape(learner.init_state, jax.ShapeDtypeStruct((), np.uint32))
    metrics = jax.eval_shape(learner.train_step, state, cases.batch())[1]
    assert [name for name in metrics if "auxiliary" in name] == [] and learner.experiment.model.auxiliary == {}


def test_validation_shows_what_is_sown():
    learner = Learner(experiment(0.01, 0.0), cases.VOCAB)
    state = jax.eval_shape(learner.init_state, jax.ShapeDtypeStruct((), np.uint32))
    metrics = jax.eval_shape(learner.eval_step, (state.params, None), cases.batch())[1]
    assert {name for name in metrics if name.startswith("auxiliary/")} == {
        "auxiliary/balance",
        "auxiliary/router_z",
        "auxiliary/busiest",
    }


def test_one_batch_is_learned_and_experts_are_balanced():
    """From a router that sends nearly all tokens to the same two of four."""
    adam = AdamW(peak_lr=5e-3, weight_decay=0.0, schedule=Constant(warmup=5))
    trainer = cases.Trainer(experiment(0.1, 0.001, optimizer=adam))
    body = trainer.state.params["body"]
    body["embed"]["tokens"] += 0.1  # something that all tokens have in common, and which a router sees
    body["layers"]["block"]["mlp"]["router"]["kernel"] += jnp.array([0.3, 0.3, 0.0, 0.0])
    batch, history = cases.batch(), []
    for _ in range(60):
        history.append(trainer.train([batch]))
    first, last = history[0], history[-1]
    assert first["auxiliary/balance"] > 2.5 and last["auxiliary/balance"] < 2.15
    assert first["auxiliary/busiest"] > 0.8 and last["auxiliary/busiest"] < 0.65
    assert last["loss"] < 0.5 * first["loss"]


def test_recomputed_or_with_a_cache():
    tokens, positions = cases.batch()["tokens"][:2], np.broadcast_to(np.arange(cases.LENGTH, dtype=np.int32), (2, 32))
    net_of = functools.partial(language_model, vocab_size=300, transform=False, bias=False)
    shapes, random = jax.eval_shape(lambda: init(net_of(BODY), jax.random.key(0), 32)), np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(random.normal(0, 0.2, leaf.shape), jnp.float32), shapes)

    def run(body):
        def total(params):
            inputs = TextInput(tokens, positions, Mask(causal=True))
            hidden, sown = net_of(body).apply({"params": params}, inputs, method="hidden", mutable=["auxiliary"])
            return jnp.sum(jnp.tanh(hidden.last)) + sum(map(jnp.sum, jax.tree.leaves(sown))), hidden.last

        return jax.jit(jax.grad(total, has_aux=True))(params)

    gradient, expected = run(BODY)
    other, hidden = run(chz.replace(BODY, remat="full"))
    np.testing.assert_allclose(hidden, expected, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4 * np.abs(a).max()), gradient, other)

    @jax.jit
    def read(tokens, positions, cache):
        inputs = TextInput(tokens, positions, Mask(causal=True))
        hidden = net_of(BODY).apply({"params": params}, inputs, cache, method="hidden")
        return hidden.last, hidden.state

    cache, parts = new_cache(BODY, 2, 32), []
    for piece in (slice(0, 16), slice(16, 32)):
        part, cache = read(tokens[:, piece], positions[:, piece], cache)
        parts.append(part)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), expected, atol=1e-4)


# As published, and as configs.


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
def test_the_balance_loss_of_transformers(name):
    case = parity.frozen(name)
    run = jax.jit(functools.partial(case.net.apply, method="hidden", mutable=["auxiliary"]))
    _, sown = run({"params": case.params}, case.inputs())
    (ours,) = sown["auxiliary"]["body"]["layers"]["block"]["mlp"]["balance"]
    np.testing.assert_allclose(ours, case.frozen["balance"], rtol=1e-5)


@pytest.mark.parametrize(
    "size,vocab,billions",
    [("mixtral-8x7B", 32_000, 12.88), ("qwen3-30B-A3B", 151_936, 3.35)],  # Jiang et al., 2024; Qwen, 2025
)
def test_active_parameters_of_published_sizes(size, vocab, billions):
    config = Llama.preset(size, vocab_multiple=1)
    net = language_model(config, vocab, transform=False, bias=False)
    shapes = jax.eval_shape(lambda: init(net, jax.random.key(0), 8))
    met = active(shapes, config)
    assert met / 1e9 == pytest.approx(billions, abs=0.01)
    # All that a token meets is multiplied by it but norms, and the two tables.
    kernels = config.flops_per_token(0) / 2 + 2 * vocab * config.width
    assert kernels < met < 1.001 * kernels


def test_on_the_command_line():
    base = load("causal_stdlib")
    config = override(base, ["model.experts=Experts", "model.experts.count=4", "model.experts.balance=0.1"])
    assert config.model.experts == Experts(count=4, chosen=2, balance=0.1)
    assert from_json(to_json(config)) == config
    assert override(config, ["model.experts=None"]) == base


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda: Experts(count=2, chosen=3), "chosen=3 of count=2 experts"),
        (lambda: Experts(count=2, chosen=1), "renormalise=False"),
        (lambda: Experts(balance=-0.1), "balance must be at least 0"),
        (lambda: T5(experts=Experts()), "T5 has no experts: leave model.experts=None"),
        (lambda: XLNet(experts=Experts()), "XLNet has no experts"),
    ],
)
def test_what_cannot_be_is_said_early(make, message):
    with pytest.raises(ValueError, match=message):
        make()
