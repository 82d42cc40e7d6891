"""Optimizers against formulas in numpy, one layer at a time; schedules at their key points."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptjax.config import UserError
from ptjax.data.tokenizers import VocabSpec
from ptjax.models import ALBERT, BERT, ELECTRA, GPT, DeBERTa, Llama, ModernBERT
from ptjax.models.feed_forward import Experts
from ptjax.models.heads import shapes as shapes_of
from ptjax.objectives import MLM
from ptjax.optim import LAMB, SGD, WSD, AdamW, Constant, Cosine, InverseSqrt, Linear, Lion, Muon, decayed

L, D, H, K, F, V = 3, 8, 2, 4, 16, 11
STEPS = 4
SIZE = dict(layers=2, width=8, heads=2, hidden=16, max_length=16)


def tree(seed):
    """A small body of stacked layers with a head, in the layout of the models."""
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
    return {
        "body": {
            "embed": {"tokens": normal(V, D), "norm": {"scale": normal(D), "bias": normal(D)}},
            "layers": {
                "attention": {
                    "query": {"kernel": normal(L, D, H, K), "bias": normal(L, H, K)},
                    "output": {"kernel": normal(L, H, K, D), "bias": normal(L, D)},
                },
                "mlp": {"up": {"kernel": normal(L, D, F), "bias": normal(L, F)}},
                "norm": {"scale": normal(L, D), "bias": normal(L, D)},
            },
        },
        "head": {"dense": {"kernel": normal(D, D), "bias": normal(D)}},
    }


def leaves(tree, is_leaf=None):
    """Path, as in "body/embed/tokens", to leaf."""
    paths = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in paths}


def flat(tree):
    return {path: np.asarray(leaf, np.float64) for path, leaf in leaves(tree).items()}


MATRICES = {  # path -> (inputs, outputs) of one layer's matrix, None where there is no layers axis
    "body/embed/tokens": None,
    "body/layers/attention/query/kernel": (D, H * K),
    "body/layers/attention/output/kernel": (H * K, D),
    "body/layers/mlp/up/kernel": (D, F),
    "head/dense/kernel": None,
}


def train(optimizer, rate=0.01):
    """Final parameters after STEPS updates with fixed gradients, and the gradients."""
    params = jax.tree.map(jnp.asarray, tree(0))
    tx = optimizer.transform(params)
    state = tx.init(params)
    gradients = [tree(seed) for seed in range(1, STEPS + 1)]

    @jax.jit
    def step(params, state, gradient):
        direction, state = tx.update(gradient, state, params)
        return jax.tree.map(lambda p, d: p - rate * d, params, direction), state

    for gradient in gradients:
        params, state = step(params, state, gradient)
    return flat(params), [flat(gradient) for gradient in gradients]


def adam(gradients, b1, b2, eps):
    """The directions of Adam, with bias correction, for a list of gradients of one leaf."""
    m = v = 0.0
    for t, g in enumerate(gradients, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        yield m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)


def check(optimizer, reference, rate=0.01, rtol=1e-5):
    """reference(path, decay, parameter, list of gradients) -> the parameter after all of them."""
    got, gradients = train(optimizer, rate)
    start = flat(tree(0))
    for path, value in got.items():
        decay = optimizer.weight_decay if path in MATRICES else 0.0
        expected = reference(path, decay, start[path], [g[path] for g in gradients])
        np.testing.assert_allclose(value, expected, rtol=rtol, atol=rtol, err_msg=path)
        assert np.abs(value - start[path]).max() > 1e-4, f"{path} did not move"


def test_decay_touches_matrices_and_embeddings_only():
    assert {path for path, value in flat(decayed(tree(0))).items() if value} == set(MATRICES)


@pytest.mark.parametrize(
    "model",
    [
        BERT(**SIZE),
        GPT(**SIZE),
        ELECTRA(embedding=4, **SIZE),
        ALBERT(embedding=4, **SIZE),
        DeBERTa(taps=3, **SIZE),
        ModernBERT(every=2, **SIZE | dict(layers=4)),
        Llama(qk_norm=True, experts=Experts(count=3, chosen=2), **SIZE),
    ],
    ids=lambda model: type(model).__name__,
)
def test_the_leaves_of_real_models(model):
    """Weight decay is of all but vectors, Muon of the body's kernels; each kernel in its own axes."""
    net = MLM().net(model, VocabSpec.synthetic(100))
    shapes, names = shapes_of(net, 16)
    names = leaves(names, is_leaf=lambda x: isinstance(x, tuple))
    own = lambda path: [name for name in names[path] if name not in ("layers", "experts")]
    vectors = {path for path in names if len(own(path)) < 2 or path.split("/")[-1].endswith("bias")}
    assert len(vectors) > 5
    assert {path for path, decay in leaves(decayed(shapes)).items() if decay} == names.keys() - vectors

    momenta = [path for path in leaves(jax.eval_shape(Muon().transform(shapes).init, shapes)) if "/mu/" in path]
    kernels = {path for path in names.keys() - vectors if path.startswith("body/") and path.endswith("/kernel")}
    assert {"body" + path.rpartition("/body")[2] for path in momenta if "/muon/" in path} == kernels
    assert any("mlp" in path for path in kernels)


def test_adamw():
    optimizer = AdamW(b1=0.8, b2=0.95, eps=1e-6, weight_decay=0.1, clip=None)

    def reference(path, decay, p, gradients):
        for d in adam(gradients, 0.8, 0.95, 1e-6):
            p = p - 0.01 * (d + decay * p)
        return p

    check(optimizer, reference)


def test_lamb_has_a_trust_ratio_for_each_layer():
    optimizer = LAMB(weight_decay=0.1, clip=None)

    def reference(path, decay, p, gradients):
        for d in adam(gradients, 0.9, 0.999, 1e-6):
            d = d + decay * p
            if path in MATRICES:
                axes = tuple(range(1, d.ndim)) if "layers" in path else None
                norm = lambda x: np.sqrt((x * x).sum(axes, keepdims=True))
                d = d * norm(p) / norm(d)
            p = p - 0.01 * d
        return p

    check(optimizer, reference)


def test_lion():
    optimizer = Lion(b1=0.9, b2=0.98, weight_decay=0.3, clip=None)

    def reference(path, decay, p, gradients):
        m = 0.0
        for g in gradients:
            p = p - 0.01 * (np.sign(0.9 * m + 0.1 * g) + decay * p)
            m = 0.98 * m + 0.02 * g
        return p

    check(optimizer, reference)


def test_sgd_decays_before_momentum():
    def reference(path, decay, p, gradients):
        m = 0.0
        for g in gradients:
            m = 0.9 * m + g + decay * p
            p = p - 0.01 * m
        return p

    check(SGD(weight_decay=0.2), reference)


def test_muon_orthogonalises_the_matrices_of_each_layer():
    optimizer = Muon(weight_decay=0.1, clip=None)

    def newton_schulz(x):
        x = x / np.linalg.norm(x)
        if x.shape[0] > x.shape[1]:
            return newton_schulz(x.T).T
        for _ in range(5):
            a = x @ x.T
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
        return x

    def reference(path, decay, p, gradients):
        if "layers" not in path or path not in MATRICES:
            for d in adam(gradients, 0.9, 0.95, 1e-8):
                p = p - 0.01 * (d + decay * p)
            return p
        rows, columns = MATRICES[path]
        m, p = 0.0, p.reshape(L, rows, columns)
        for t, g in enumerate(gradients, 1):
            g = g.reshape(p.shape)
            m = 0.95 * m + 0.05 * g
            nesterov = 0.95 * m / (1 - 0.95 ** (t + 1)) + 0.05 * g / (1 - 0.95**t)
            d = np.stack([newton_schulz(layer) for layer in nesterov]) * 0.2 * max(rows, columns) ** 0.5
            p = p - 0.01 * (d + decay * p)
        return p.reshape(flat(tree(0))[path].shape)

    check(optimizer, reference, rtol=1e-4)
    params = tree(0)
    tx = optimizer.transform(params)
    direction, _ = tx.update(tree(1), tx.init(params), jax.tree.map(jnp.zeros_like, params))
    update = direction["body"]["layers"]["attention"]["query"]["kernel"].reshape(L, D, H * K)
    singular = np.linalg.svd(update, compute_uv=False) / (0.2 * D**0.5)
    assert ((singular > 0.5) & (singular < 1.5)).all()


@pytest.mark.parametrize("optimizer", [LAMB(clip=None), Muon(clip=None)])
def test_each_expert_is_a_matrix_of_its_own(optimizer):
    def updated(split):
        rng = np.random.default_rng(0)
        made = lambda: split((rng.normal(size=(L, 2, D, F)) * [[[1.0]], [[9.0]]]).astype(np.float32))
        params = {"body": {"layers": {"mlp": made()}}}
        tx = optimizer.transform(params)
        direction, _ = tx.update({"body": {"layers": {"mlp": made()}}}, tx.init(params), params)
        return direction["body"]["layers"]["mlp"]

    together = updated(lambda x: {"experts": {"up": {"kernel": x}}})["experts"]["up"]["kernel"]
    apart = updated(lambda x: {"first": {"kernel": x[:, 0]}, "second": {"kernel": x[:, 1]}})
    for e, name in enumerate(("first", "second")):
        np.testing.assert_allclose(together[:, e], apart[name]["kernel"], rtol=1e-4, atol=1e-6)


def test_clip_bounds_the_global_norm():
    params, gradient = tree(0), tree(1)
    norm = np.sqrt(sum((g**2).sum() for g in flat(gradient).values()))
    tx = SGD(weight_decay=0.0, clip=norm / 4, momentum=0.0).transform(params)
    direction, _ = tx.update(gradient, tx.init(params), params)
    for path, d in flat(direction).items():
        np.testing.assert_allclose(d, flat(gradient)[path] / 4, rtol=1e-5, err_msg=path)


@pytest.mark.parametrize("kind", [AdamW, LAMB, Lion, Muon, SGD])
def test_transform_needs_shapes_only_and_its_state_is_arrays(kind):
    abstract = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, tree(0)))
    tx = kind().transform(abstract)
    state = tx.init(jax.tree.map(jnp.asarray, tree(0)))
    arrays = jax.tree.leaves(state)
    assert len(arrays) >= len(jax.tree.leaves(abstract)) and all(isinstance(leaf, jax.Array) for leaf in arrays)


def test_another_rate_compiles_nothing_new():
    traces = []
    optimizer = AdamW(peak_lr=3e-4)

    @jax.jit
    def rate(hyper, step):
        traces.append(1)
        return hyper["learning_rate"] * optimizer.factor(step, 100)

    first = rate(optimizer.hyper(), jnp.int32(50))
    second = rate(AdamW(peak_lr=6e-4).hyper(), jnp.int32(50))
    assert len(traces) == 1 and np.isclose(second, 2 * first) and first > 0


def points(schedule, steps, total=1000):
    return np.asarray([schedule.factor(jnp.int32(step), total) for step in steps])


@pytest.mark.parametrize("kind", [Constant, Linear, Cosine, WSD, InverseSqrt])
def test_warmup_is_linear_and_reaches_the_peak(kind):
    np.testing.assert_allclose(points(kind(warmup=99), [0, 49, 98, 99]), [0.01, 0.5, 0.99, 1], rtol=1e-6)
    np.testing.assert_allclose(points(kind(warmup=0.1), [0, 50, 100]), points(kind(warmup=100), [0, 50, 100]))
    every = np.asarray(jax.vmap(lambda step: kind(warmup=99).factor(step, 1000))(jnp.arange(1000)))
    assert every.max() == 1 and every.min() > 0 and (np.diff(every[99:]) <= 1e-7).all()
    assert points(kind(warmup=0), [0]) == 1


def test_schedules_at_their_key_points():
    np.testing.assert_allclose(points(Constant(warmup=0), [0, 999]), [1, 1])
    np.testing.assert_allclose(points(Linear(warmup=200, final=0.1), [200, 600, 1000]), [1, 0.55, 0.1], rtol=1e-6)
    np.testing.assert_allclose(
        points(Cosine(warmup=200, final=0.1), [200, 400, 600, 1000]),
        [1, 0.1 + 0.45 * (1 + np.sqrt(0.5)), 0.55, 0.1],
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        points(WSD(warmup=0.1, cooldown=0.2), [100, 500, 800, 900, 1000]), [1, 1, 1, 0.5, 0], atol=1e-6
    )
    np.testing.assert_allclose(
        points(WSD(warmup=0, cooldown=400, shape="1-sqrt", final=0.1), [0, 600, 700, 1000]),
        [1, 1, 0.55, 0.1],
        atol=1e-6,
    )
    np.testing.assert_allclose(points(InverseSqrt(warmup=99), [99, 399, 9999], 10**5), [1, 0.5, 0.1], rtol=1e-6)


def test_a_warmup_longer_than_the_run_still_runs():
    for kind in (Linear, Cosine, WSD):
        np.testing.assert_allclose(points(kind(warmup=10000), [0, 1], total=2), [1 / 10001, 2 / 10001], rtol=1e-6)


@pytest.mark.parametrize(
    "build, says",
    [
        (lambda: AdamW(peak_lr=-1.0), "peak_lr"),
        (lambda: AdamW(clip=0.0), "clip=None"),
        (lambda: SGD(weight_decay=-0.1), "weight_decay"),
        (lambda: Linear(warmup=-1), "warmup"),
        (lambda: Cosine(final=2.0), "final"),
        (lambda: WSD(cooldown=-0.5), "cooldown"),
    ],
)
def test_impossible_values_are_refused(build, says):
    with pytest.raises(UserError, match=says):
        build()
