"""Law 1: one device, a mesh, pmap, and accumulation over unequal microbatches give the same training."""

import functools

import jax
import pytest

from ptjax.partition import MeshConfig

from . import cases

LAYOUTS = {
    "mesh": dict(mesh=MeshConfig(data=2, fsdp=2, tensor=2)),
    "pmap": dict(mesh=MeshConfig(layout="pmap")),
    "accumulation": dict(accumulation=4),
    "accumulation on a mesh": dict(accumulation=2, mesh=MeshConfig(data=4, fsdp=1, tensor=2)),
}
STEPS = 2


@functools.cache
def reference(objective, body):
    trainer = cases.Trainer(cases.experiment(objective, body))
    metrics = trainer.train(cases.batch(i) for i in range(STEPS))
    return trainer.params, metrics


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("objective,body", cases.PAIRS)
def test_layout_does_not_matter(objective, body, layout):
    trainer = cases.Trainer(cases.experiment(objective, body, **LAYOUTS[layout]))
    metrics = trainer.train(cases.batch(i) for i in range(STEPS))
    params, expected = reference(objective, body)
    assert cases.distance(params, trainer.params) < 2e-5
    assert metrics == pytest.approx(expected, rel=2e-5)


def test_training_moves_every_parameter():
    """Otherwise the law above would compare initial values."""
    trainer = cases.Trainer(cases.experiment("mlm", "bert"))
    before = trainer.params
    trainer.train([cases.batch(0)])
    moved = jax.tree.map(lambda a, b: (a != b).any(), before, trainer.params)
    # A key's bias shifts all logits of a query alike, and softmax does not see it.
    del moved["body"]["layers"]["block"]["attention"]["key"]["bias"]
    assert all(jax.tree.leaves(moved)), moved
