"""Several objectives in one run: who asks which example, and that each part is what it would be alone."""

import chz
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptjax.learner import FIXED, Learner, example_keys
from ptjax.objectives import MLM, CausalLM, Mixed, Part, Phase, Schedule, StepContext
from ptjax.partition import MeshConfig
from ptjax.types import TrainState

from ..contracts import cases

MIXED = Mixed(mixture=(Part(objective=MLM(rate=0.2), weight=3.0), Part(objective=CausalLM(), weight=1.0)))
ROWS = 64


def learner(objective=MIXED, **changes) -> Learner:
    return Learner(cases.experiment(objective, "bert", **changes), cases.VOCAB)


@pytest.fixture(scope="module")
def asked():
    """(state, corrupted batches of steps 0 and 1) for the same 64 rows."""
    batch = cases.batch(0, ROWS)
    state = jax.jit(learner().init_state)(np.uint32(0))
    corrupted = jax.jit(learner().corrupted)
    return state, batch, [jax.device_get(corrupted(state.replace(step=np.int32(i)), batch)) for i in (0, 1)]


def assigned(seed: int, index) -> np.ndarray:
    keys = example_keys(jnp.uint32(seed), FIXED, jnp.int32(0), jnp.asarray(index))
    return np.asarray(MIXED.assigned(keys))


def test_each_example_is_asked_by_the_part_drawn_for_it(asked):
    _, batch, steps = asked
    part = assigned(0, batch["index"])
    for out in steps:  # the same part at every step
        assert not out["dropped"].any()
        for k, name in enumerate(("MLM", "CausalLM")):
            index = out[name]["index"]
            assert sorted(index[index >= 0]) == sorted(batch["index"][part == k])
            spare = out[name]["tokens"][index < 0]
            assert (spare == cases.VOCAB.pad_id).all()
    assert (steps[0]["MLM"]["tokens"] != steps[1]["MLM"]["tokens"]).any()  # and another question


def test_shares():
    index = np.arange(20_000, dtype=np.int32)
    share = (assigned(3, index) == 0).mean()
    assert share == pytest.approx(0.75, abs=5 * (0.75 * 0.25 / len(index)) ** 0.5)
    assert (assigned(3, index) != assigned(4, index)).any()


def test_loss_is_the_parts_own_means_by_their_shares(asked):
    state, batch, (out, _) = asked
    part, learn = assigned(0, batch["index"]), learner()
    losses_of = lambda objective, net: jax.jit(
        lambda params, batch: objective.losses(net, {"params": params}, batch, StepContext(cases.VOCAB))
    )
    losses = losses_of(MIXED, learn.net)(state.params, out)
    weights = MIXED.weights(out, cases.VOCAB)
    found = MIXED.minimised({name: total / weights[name] for name, total in losses.totals.items()})

    causal = {key: jnp.asarray(batch[key][part == 1]) for key in ("index", "tokens")}
    total = losses_of(CausalLM(), learner(CausalLM()).net)(state.params, causal).totals["causal"]
    mean = total / CausalLM().weights(causal, cases.VOCAB)["causal"]
    assert losses.totals["CausalLM/causal"] == pytest.approx(float(total), rel=1e-5)
    mlm = losses.totals["MLM/mlm"] / weights["MLM/mlm"]
    assert found == pytest.approx(float(0.75 * mlm + 0.25 * mean), rel=1e-5)


def test_terms_that_are_no_predictions_keep_their_factor():
    mixed = Mixed(mixture=(Part(objective=CausalLM(z_loss=1e-4)), Part(objective=MLM(), weight=3.0)))
    assert mixed.factor("CausalLM/z_loss") == pytest.approx(0.25e-4)
    assert mixed.factor("MLM/mlm") == 0.75


def test_trivial_is_a_parts_own():
    scores = {"loss": 9.0, "CausalLM/nll": 3.0, "loss/CausalLM/causal": 3.0, "MLM/nll": 4.0}
    assert MIXED.trivial(scores, 6.0) == ("MLM/nll", "unigram entropy", 6.0)


def test_what_does_not_fit_is_dropped_and_counted():
    few = MIXED.rows(0.25, 256, 1)
    assert few == np.ceil(64 + 5 * 48**0.5) and MIXED.rows(0.25, 256, 16) % 16 == 0
    assert MIXED.rows(0.25, 8, 4) == 8  # never more than there are
    # Rows that are all the second part's, more than it has room for.
    index = np.arange(40_000, dtype=np.int32)
    index = index[assigned(0, index) == 1][:256]
    tokens = np.full((256, 8), 50, np.int32)
    state = TrainState(np.int32(0), np.uint32(0), {}, {}, {})
    ask = jax.jit(lambda batch: learner().corrupted(state, batch))
    out = jax.device_get(ask({"index": index, "tokens": tokens}))
    assert out["dropped"].sum() == 256 - few == (out["CausalLM"]["index"] >= 0).sum() * -1 + 256


@pytest.mark.parametrize("layout", [dict(accumulation=2, mesh=MeshConfig(data=2, fsdp=2, tensor=2))])
def test_layout_does_not_matter(layout):
    batches = [cases.batch(i, ROWS) for i in range(2)]
    one, other = (cases.Trainer(cases.experiment(MIXED, "bert", **changes)) for changes in ({}, layout))
    expected, found = one.train(batches), other.train(batches)
    assert cases.distance(one.params, other.params) < 2e-5
    assert found == pytest.approx(expected, rel=2e-5, abs=1e-6)


def test_heads_of_one_name_are_one(asked):
    state, _, _ = asked
    assert state.params.keys() == {"body", "head"}
    alone = jax.jit(learner(MLM()).init_state)(np.uint32(0)).params
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: (a == b).all(), alone, state.params)))


def test_mistakes():
    with pytest.raises(ValueError, match="at least one part"):
        Mixed(mixture=())
    with pytest.raises(ValueError, match="weight must be above 0, not -1"):
        Part(objective=MLM(), weight=-1.0)
    with pytest.raises(ValueError, match="not the other way round"):
        Mixed(mixture=(Part(objective=Schedule(phases=(Phase(objective=MLM()),))),))


def test_twice_the_same_class_has_two_names():
    twice = chz.replace(MIXED, mixture=(Part(objective=MLM()), Part(objective=MLM(rate=0.4))))
    assert list(twice.predicted(32)) == ["MLM_0/mlm", "MLM_1/mlm"]
    assert twice.factor("MLM_1/mlm") == 0.5
