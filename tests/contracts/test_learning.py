"""Law 7: the seed, and only the seed, decides what is drawn."""

import jax
import numpy as np
import pytest

from . import cases


@pytest.mark.parametrize("objective,body", [("mlm", "bert"), ("causal", "gpt")])
def test_seed_decides(objective, body):
    def trained(seed):
        model = cases.BODIES[body]
        dropping = type(model)(**cases.SIZE | dict(dropout=0.1, attention_dropout=0.1))
        trainer = cases.Trainer(cases.experiment(objective, dropping, seed=seed))
        trainer.train(cases.batch(i) for i in range(2))
        return trainer.params

    first, again, other = trained(0), trained(0), trained(1)
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: (a == b).all(), first, again)))
    kernels = lambda params: jax.tree.leaves(params["body"]["layers"])
    assert not any((a == b).all() for a, b in zip(kernels(first), kernels(other)))


def test_body_starts_the_same_under_every_objective():
    """A fair comparison needs it: heads differ, the body's first values do not."""
    bodies = [jax.device_get(cases.fresh_params(name, "bert")[1]["body"]) for name in ("mlm", "causal")]
    for other in bodies[1:]:
        assert all(jax.tree.leaves(jax.tree.map(lambda a, b: np.array_equal(a, b), bodies[0], other)))
