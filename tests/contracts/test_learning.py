"""Law 7: the seed, and only the seed, decides what is drawn."""

import chz
import jax
import numpy as np
import pytest

from ptjax.learner import Learner

from . import cases


@pytest.mark.parametrize("objective,body", [("mlm", "bert"), ("causal", "gpt")])
def test_seed_decides(objective, body):
    model = chz.replace(cases.BODIES[body], dropout=0.1, attention_dropout=0.1)
    learner = Learner(cases.experiment(objective, model), cases.VOCAB)
    init_state, step = jax.jit(learner.init_state), jax.jit(learner.train_step)

    def trained(seed):
        state = init_state(np.uint32(seed))
        for i in range(2):
            state, _ = step(state, cases.batch(i))
        return jax.device_get(state.params)

    first, again, other = trained(0), trained(0), trained(1)
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: (a == b).all(), first, again)))
    kernels = lambda params: jax.tree.leaves(params["body"]["layers"])
    assert not any((a == b).all() for a, b in zip(kernels(first), kernels(other)))


TEXT = [name for name, objective in cases.SHIPPED_OBJECTIVES.items() if "text" in objective.needs]


@pytest.mark.parametrize("name", sorted(set(TEXT) - {"MLM"}))
def test_body_starts_the_same_under_every_objective(name):
    """A fair comparison needs it: heads differ, the body's first values do not. Ids of an objective's own are rows
    behind those of the tokenizer's pieces."""
    one, other = (jax.device_get(cases.fresh_params(objective, "bert")[1]["body"]) for objective in ("MLM", name))
    for body in (one, other):
        body["embed"]["tokens"] = body["embed"]["tokens"][: cases.VOCAB.size]
    same = jax.tree_util.tree_map_with_path(lambda path, a, b: np.array_equal(a, b) or path, one, other)
    assert [leaf for leaf in jax.tree.leaves(same) if leaf is not True] == []
