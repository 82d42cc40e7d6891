"""Meshes, and which array lives where. That layouts train alike is a law, in contracts/."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from ptjax import partition
from ptjax.config import UserError
from ptjax.learner import Learner
from ptjax.optim import AdamW
from ptjax.partition import MeshConfig, Rules, make_mesh
from tests.contracts import cases


@pytest.mark.parametrize(
    "sizes,shape",
    [
        (dict(), (8, 1, 1, 1)),
        (dict(fsdp=2), (4, 2, 1, 1)),
        (dict(data=1, fsdp=-1), (1, 8, 1, 1)),
        (dict(data=2, fsdp=2, tensor=2), (2, 2, 1, 2)),
        (dict(expert=4, tensor=2), (1, 1, 4, 2)),
        (dict(layout="pmap"), (8, 1, 1, 1)),
    ],
)
def test_mesh_takes_all_devices(sizes, shape):
    mesh = make_mesh(MeshConfig(**sizes))
    assert tuple(mesh.shape.items()) == tuple(zip(("data", "fsdp", "expert", "tensor"), shape))
    assert set(mesh.devices.flat) == set(jax.devices())
    assert partition.batch_shards(mesh) == shape[0] * shape[1] * shape[2]
    assert partition.process_part(mesh) == (0, 1)


@pytest.mark.parametrize(
    "sizes,message",
    [
        (dict(data=3), "mesh.data=3, mesh.fsdp=1, mesh.expert=1, mesh.tensor=1 wants 3 devices and there are 8"),
        (dict(tensor=3), "wants a multiple of 3 devices and there are 8"),
        (dict(data=4), "wants 4 devices and there are 8"),
        (dict(fsdp=-1), "one at most is -1"),
        (dict(tensor=0), "sizes are positive"),
        (dict(layout="pmap", fsdp=2), "pmap is data parallel only, so mesh.data must be 8"),
    ],
)
def test_mesh_that_does_not_fit(sizes, message):
    with pytest.raises(UserError, match=message):
        make_mesh(MeshConfig(**sizes))


def test_a_mesh_of_some_devices():
    assert make_mesh(MeshConfig(), jax.devices()[:1]).size == 1
    with pytest.raises(UserError, match="there are 2"):
        make_mesh(MeshConfig(tensor=4), jax.devices()[:2])


def test_unknown_mesh_axis_in_a_rule():
    with pytest.raises(ValueError, match="rules.mlp='model': the mesh axes are data, fsdp, expert, tensor"):
        Rules(mlp="model")


def shardings(body="bert", objective="mlm", mesh=MeshConfig(data=2, fsdp=2, tensor=2), **changes):
    learner = Learner(cases.experiment(objective, body, mesh=mesh, **changes), cases.VOCAB)
    return learner.shardings(make_mesh(mesh))


def test_state_is_divided_as_the_rules_say():
    abstract, places = shardings(ema=0.9)
    specs = jax.tree.map(lambda place: place.spec, places)
    block = specs.params["body"]["layers"]["block"]
    assert block["attention"]["query"]["kernel"] == P(None, "fsdp", "tensor", None)
    assert block["mlp"]["up"]["kernel"] == P(None, "fsdp", "tensor")
    assert block["mlp"]["down"]["kernel"] == P(None, "tensor", "fsdp")
    assert specs.params["body"]["embed"]["tokens"] == P("tensor", None)
    assert specs.step == P() == specs.hyper["learning_rate"]
    assert specs.ema == specs.params
    # What the optimizer keeps of a parameter lives with the parameter.
    _, adam = shardings(optimizer=AdamW())
    moments = [leaf.spec for path, leaf in jax.tree_util.tree_leaves_with_path(adam.opt_state) if "mu" in str(path)]
    assert moments == jax.tree.leaves(specs.params, is_leaf=lambda x: isinstance(x, P))


def test_no_device_holds_the_whole_model():
    _, places = shardings(mesh=MeshConfig(data=1, fsdp=4, tensor=2))
    learner = Learner(cases.experiment("mlm", "bert"), cases.VOCAB)
    state = jax.jit(learner.init_state, out_shardings=places)(np.uint32(0))
    kernel = state.params["body"]["layers"]["block"]["mlp"]["up"]["kernel"]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(2, 32 // 4, 64 // 2)}


def test_a_size_that_the_mesh_does_not_divide():
    message = "has 2 along 'heads', which mesh.tensor=8 does not divide.*mesh.rules.heads=None"
    with pytest.raises(UserError, match=message):
        shardings(mesh=MeshConfig(data=1, tensor=8))
    whole = MeshConfig(data=1, tensor=8, rules=Rules(heads=None))
    shardings(mesh=whole)  # as the message says


def test_two_names_of_a_parameter_on_one_axis():
    message = "mlp.*kernel would be divided over mesh.tensor along 'mlp' and 'embed'.*mesh.rules.embed=None"
    with pytest.raises(UserError, match=message):
        shardings(mesh=MeshConfig(data=4, tensor=2, rules=Rules(embed="tensor", heads=None)))
    shardings(mesh=MeshConfig(data=4, tensor=2, rules=Rules(embed="tensor", heads=None, mlp=None)))


def test_activations_are_constrained_only_within_a_step():
    x = jnp.zeros((8, 4))
    assert partition.constrain(x, "batch", "length") is x
    mesh, rules = make_mesh(MeshConfig(data=4, tensor=2)), Rules()
    with partition.use(mesh, rules):
        y = jax.jit(lambda x: partition.constrain(x, "batch", "mlp"))(x)
    assert y.sharding.is_equivalent_to(jax.sharding.NamedSharding(mesh, P("data", "tensor")), 2)
    assert partition.constrain(x, "batch", "mlp") is x


@pytest.mark.parametrize("layout", ["jit", "pmap"])
def test_rows_keep_their_order(layout):
    """Batches placed on devices are the host's rows, and sums are over all of them."""
    config = MeshConfig(layout=layout)
    mesh = make_mesh(config)
    replicated = jax.sharding.NamedSharding(mesh, P())

    def step(scale, batch, axis=None):
        total = jnp.sum(scale * batch["x"] * (1 + batch["index"][:, None]))
        return scale, {"total": jax.lax.psum(total, axis) if axis else total}

    compiled = partition.compile_step(step, mesh, Rules(), replicated, replicated, layout, donate=False)
    x = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    host = {"index": np.arange(16, dtype=np.int32), "x": x}
    placed = compiled.place(host)
    assert (np.asarray(placed["x"]).reshape(16, 3) == host["x"]).all()
    found = float(compiled(jax.device_put(np.float32(2), replicated), placed)[1]["total"])
    assert found == pytest.approx(2 * float((host["x"] * (1 + host["index"][:, None])).sum()), rel=1e-4)
