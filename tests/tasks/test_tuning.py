"""What learns: everything, heads, or low-rank changes of kernels."""

import chz
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptjax.config import UserError
from ptjax.data.examples import Examples
from ptjax.learner import Learner
from ptjax.models.heads import init, shapes
from ptjax.models.task_nets import sequence_net
from ptjax.nn.linear import kernel_axes, stacked
from ptjax.optim import LAMB, SGD, AdamW, Lion, Muon
from ptjax.partition import MeshConfig, make_mesh
from ptjax.tasks import Full, LoRA, Probe
from ptjax.tasks.sequence import SequenceClassification
from tests.contracts import cases

SMALL = dict(layers=2, width=16, heads=4, hidden=32)
BODIES = {name: body.resized(**SMALL) for name, body in (cases.SHIPPED_BODIES | cases.BODIES).items()}
LORA = LoRA(rank=3, alpha=6.0, targets=("query", "output", "down"))


def plain_net(body: str):
    return sequence_net(BODIES[body], cases.VOCAB.size, 3, pool="mean", pooler=False, dropout=0.0)


def flat(tree, of=lambda x: x) -> dict[tuple[str, ...], object]:
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: isinstance(x, tuple))
    return {tuple(key.key for key in path): of(leaf) for path, leaf in leaves}


def batch(rows: int = 8, length: int = 8) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    tokens = random.integers(7, cases.VOCAB.size, (rows, length)).astype(np.int32)
    size = random.integers(3, length + 1, rows).astype(np.int32)
    return {"index": np.arange(rows, dtype=np.int32), "tokens": tokens, "size": size, "label": tokens[:, 0] % 3}


def task(tuning) -> SequenceClassification:
    settings = dict(labels=("a", "b", "c"), pool="mean", pooler=False, attention="bidirectional", dropout=0.0)
    return SequenceClassification(name="tiny", examples=Examples(), tuning=tuning, **settings)


def random_b(params, seed: int = 0):
    """The params with adapters that change something."""
    random = np.random.default_rng(seed)
    set_b = lambda path, x: random.normal(size=x.shape).astype(np.float32) if path[-1].key == "b" else x
    return jax.tree_util.tree_map_with_path(set_b, params)


# Parameters.


@pytest.mark.parametrize("body", BODIES)
def test_every_body_has_adapters_that_follow_its_kernels(body):
    plain, plain_names = map(flat, shapes(plain_net(body), 8))
    with_adapters, names = map(flat, shapes(LORA.net(plain_net(body)), 8))
    adapter = {path for path in with_adapters if path[0] == "adapter"}
    assert {k: v for k, v in with_adapters.items() if k not in adapter} == plain and len(adapter) >= 6
    kernels = {path for path in plain if path[0] == "body" and path[-1] == "kernel" and set(path) & set(LORA.targets)}
    assert adapter == {("adapter", *path, x) for path in kernels for x in "ab"}
    for path in kernels:
        a, b = (with_adapters["adapter", *path, x].shape for x in "ab")
        stack = stacked(path)
        assert a[-1] == b[stack] == 3 and a[:-1] + b[stack + 1 :] == plain[path].shape[: len(a) - 1] + b[stack + 1 :]
        assert a[:-1] + b[stack + 1 :] == plain[path].shape and a[:stack] == b[:stack]
        a, b = (names["adapter", *path, x] for x in "ab")
        assert a[:-1] + b[stack + 1 :] == plain_names[path] and a[-1] == b[stack] == "rank"


def test_the_body_is_the_same_and_the_change_is_nothing_at_first():
    net, key = plain_net("mixtral"), jax.random.key(3)
    made = jax.jit(lambda key: (init(net, key, 8), init(LORA.net(net), key, 8)))
    plain, params = jax.device_get(made(key))
    adapter = flat(params.pop("adapter"))
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, plain, params)))
    for path, leaf in adapter.items():
        kernel = flat(plain)[path[:-1]]
        bound = 1 / np.prod([kernel.shape[axis] for axis in kernel_axes(path[:-1], kernel.ndim)[1]]) ** 0.5
        assert (leaf == 0).all() if path[-1] == "b" else 0.8 * bound < np.abs(leaf).max() <= bound
    draws = [leaf.ravel()[:8].tolist() for path, leaf in adapter.items() if path[-1] == "a"]
    assert len({tuple(draw) for draw in draws}) == len(draws) == 3
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, plain, LORA.merged(params | {"adapter": unflat(adapter)}))))


def unflat(leaves):
    tree = {}
    for path, leaf in leaves.items():
        part = tree
        for name in path[:-1]:
            part = part.setdefault(name, {})
        part[path[-1]] = leaf
    return tree


@pytest.mark.parametrize("body", ["mixtral", "ALBERT"])
def test_a_change_is_a_product_of_matrices(body):
    shape, _ = shapes(LORA.net(plain_net(body)), 8)
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda x: random.normal(size=x.shape).astype(np.float32), shape)
    merged, before, adapter = flat(LORA.merged(params)), flat(params), flat(params["adapter"])
    changed = {path[:-1] for path in adapter}
    assert {path for path, x in merged.items() if not np.array_equal(x, before[path])} == changed
    for path in changed:
        kernel, stack = before[path], before[path].shape[: stacked(path)]
        sizes = [int(np.prod([kernel.shape[axis] for axis in group])) for group in kernel_axes(path, kernel.ndim)[1:]]
        a = adapter[*path, "a"].reshape(*stack, sizes[0], 3).astype(np.float64)
        b = adapter[*path, "b"].reshape(*stack, 3, sizes[1])
        wanted = kernel.reshape(*stack, *sizes) + 6.0 / 3 * (a @ b)
        np.testing.assert_allclose(merged[path].reshape(wanted.shape), wanted, atol=1e-5)


def test_adapters_answer_and_learn_as_the_formula_says():
    """Forward as merged kernels; dA = s dW B^T and dB = s A^T dW (Hu et al., 2021), from the plain net's dW."""
    net, lora = plain_net("GPT"), LORA.net(plain_net("GPT"))
    params = random_b(jax.device_get(jax.jit(lambda: init(lora, jax.random.key(0), 8))()))
    inputs = task(LORA).inputs(batch(), cases.VOCAB)
    answer = lambda net: lambda params: net.apply({"params": params}, inputs, method="answer")
    loss = lambda net: lambda params: (lambda y: (jnp.sum(jnp.sin(y)), y))(answer(net)(params))
    both = jax.jit(lambda p, merged: [jax.grad(loss(n), has_aux=True)(x) for n, x in ((lora, p), (net, merged))])
    (grads, given), (plain_grads, wanted) = jax.device_get(both(params, LORA.merged(params)))
    np.testing.assert_allclose(given, wanted, rtol=1e-5, atol=1e-5)
    path = ("body", "layers", "block", "attention", "query", "kernel")
    dw = flat(plain_grads)[path].reshape(2, 16, 16)
    a, b = (flat(params)["adapter", *path, x].reshape(2, *s) for x, s in (("a", (16, 3)), ("b", (3, 16))))
    da, db = (flat(grads)["adapter", *path, x].reshape(y.shape) for x, y in (("a", a), ("b", b)))
    assert np.abs(da).max() > 1e-3 and np.abs(db).max() > 1e-3
    np.testing.assert_allclose(da, 2.0 * dw @ b.swapaxes(1, 2), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(db, 2.0 * a.swapaxes(1, 2) @ dw, rtol=1e-3, atol=1e-5)


def test_the_cost_of_a_step():
    """Kernels of a layer of width 16: four of attention and two of twice that size."""
    shape = lambda targets: shapes(LoRA(targets=targets).net(plain_net("GPT")), 8)[0]  # noqa: E731
    assert LORA.passes(shape(("query", "value"))) == pytest.approx(2 + 2 / 8)
    assert LORA.passes(shape(("query", "down"))) == pytest.approx(2 + 3 / 8)
    assert LORA.passes(shape(("attention", "mlp"))) == Full().passes(shape(("key",))) == 3


# Training.


def learner(tuning, optimizer) -> Learner:
    experiment = cases.experiment(task(tuning), BODIES["BERT"], optimizer=optimizer)
    return Learner(experiment, cases.VOCAB)


def test_a_run_changes_adapters_and_heads_alone():
    subject = learner(LORA, AdamW(peak_lr=1e-2, weight_decay=0.5))
    state = jax.jit(subject.init_state)(np.uint32(0))
    first, step = jax.device_get(state.params), jax.jit(subject.train_step)
    for _ in range(3):
        state, metrics = step(state, batch())
    after = flat(jax.device_get(state.params))
    for path, leaf in flat(first).items():
        moved = not np.array_equal(leaf, after[path])
        assert moved == (path[0] in ("adapter", "classifier")), path


@pytest.mark.parametrize("optimizer", [AdamW, Muon, LAMB, SGD, Lion])
@pytest.mark.parametrize("tuning", [LORA, Probe()], ids=["LoRA", "Probe"])
def test_optimizers_keep_and_change_nothing_of_what_is_frozen(optimizer, tuning):
    subject = learner(tuning, optimizer(weight_decay=0.1))
    learned = {path: x for path, x in flat(subject.params_shape).items() if tuning.learns(path)}
    numbers = sum(x.size for x in learned.values())
    state = jax.eval_shape(subject.init_state, jax.ShapeDtypeStruct((), np.uint32))
    kept = sum(x.size for x in jax.tree.leaves(state.opt_state))
    moments = 2 if optimizer in (AdamW, LAMB, Muon) else 1
    assert moments * numbers <= kept <= moments * numbers + 8  # and a few counts

    random = np.random.default_rng(0)
    params = jax.tree.map(lambda x: random.normal(size=x.shape).astype(np.float32), subject.params_shape)
    params = jax.tree_util.tree_map_with_path(lambda path, x: 0 * x if path[-1].key == "b" else x, params)
    tx = subject._tx(params)
    direction, _ = jax.jit(tx.update)(jax.tree.map(np.ones_like, params), tx.init(params), params)
    for path, x in flat(jax.device_get(direction)).items():
        assert np.isfinite(x).all() and (x != 0).any() == (path in learned), path


def test_full_muon_still_orthogonalises_the_body():
    subject = learner(Full(), Muon())
    state = jax.eval_shape(subject.init_state, jax.ShapeDtypeStruct((), np.uint32))
    numbers = sum(x.size for x in jax.tree.leaves(subject.params_shape))
    assert sum(x.size for x in jax.tree.leaves(state.opt_state)) < 1.9 * numbers


def test_on_a_mesh_adapters_lie_as_their_kernels():
    subject = learner(LORA, AdamW())
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    _, shardings = subject.shardings(mesh)
    found = {path: tuple(sharding.spec) for path, sharding in flat(shardings.params).items()}
    path = ("body", "layers", "block", "attention", "query", "kernel")
    assert found[path][1:3] == ("fsdp", "tensor")
    assert found["adapter", *path, "a"] == (None, "fsdp", None)
    assert found["adapter", *path, "b"][:3] == (None, None, "tensor")
    moments = [str(s.spec) for s in jax.tree.leaves(shardings.opt_state) if "tensor" in str(s.spec)]
    assert moments


# Mistakes.


def test_a_target_that_the_body_does_not_have():
    tuning = LoRA(targets=("query", "c_attn"))
    with pytest.raises(UserError, match="no kernel 'c_attn'; it has down, key, output, query, up, value"):
        shapes(tuning.net(plain_net("BERT")), 8)


@pytest.mark.parametrize("wrong", [dict(rank=0), dict(alpha=0.0), dict(alpha=float("nan")), dict(targets=())])
def test_numbers_that_make_no_adapter(wrong):
    with pytest.raises(ValueError, match=f"tuning.{next(iter(wrong))}"):
        chz.replace(LORA, **wrong)
