"""A comparison as a value, and what its arms may spend."""

import re

import chz
import pytest

from ptjax.compare import Arm, Comparison
from ptjax.compare.budget import Budget, Measured, digest, not_measured, read_costs
from ptjax.compare.study import Study
from ptjax.config import UserError, from_json, override, to_json
from ptjax.data.prepared import Prepared
from ptjax.objectives import MLM, CausalLM
from tests.compare.small import comparison, tailored
from tests.small import experiment


def message(error) -> str:
    """What building a config says; chz wraps what a validation raises."""
    return f"{error.value} {error.value.__cause__ or ''}"


def test_a_comparison_goes_through_json(tiny_corpus):
    c = comparison(tiny_corpus, arms=(Arm(name="a", seeds=(3, 4)), Arm(name="b", after="a", at=0.25)), seeds=(3,))
    assert from_json(to_json(c), Comparison) == c


def test_arms_are_the_base_with_their_changes(tiny_corpus):
    c = comparison(tiny_corpus)
    assert c.changed(c.arm("mlm")) == c.base and isinstance(c.changed(c.arm("causal")).objective, CausalLM)
    longer = override(c, ["arms.1.changes=['objective=MLM','objective.rate=0.4']"])
    assert longer.changed(longer.arms[1]).objective == MLM(rate=0.4)


@pytest.mark.parametrize(
    "arms, problem",
    [
        ([], "at least one"),
        ([dict(name="a"), dict(name="a")], "two are named a"),
        ([dict(name="a/b")], "letters, digits"),
        ([dict(name="a", changes=("objective=Causal",))], "arm a: .*Did you mean 'CausalLM'"),
        ([dict(name="a", changes=("steps=5",))], "set the arm's budget"),
        ([dict(name="a", changes=("seed=5",))], "set seeds of"),
        ([dict(name="a", changes=("checkpoint.every=5",))], "set base.checkpoint"),
        ([dict(name="a", budget=0.0)], "multiple above 0"),
        ([dict(name="a", after="b")], "no such arm"),
        ([dict(name="a", after="a")], "goes on from itself: a after a"),
        ([dict(name="a", after="b"), dict(name="b", after="a")], "goes on from itself"),
        ([dict(name="a"), dict(name="b", after="a", at=1.0)], "at=1.0 is a share"),
        ([dict(name="a", budget=0.3), dict(name="b", after="a", at=0.5)], "behind the end of a"),
        ([dict(name="a", seeds=(7,)), dict(name="b", after="a")], "a has no run of seed 0, 1"),
        (
            [dict(name="a"), dict(name="b", after="a", at=0.5), dict(name="c", after="b", at=0.4)],
            "before that has begun",
        ),
        ([dict(name="a", seeds=(1, 1))], "none twice"),
    ],
)
def test_arms_that_make_no_sense_are_refused(tiny_corpus, arms, problem):
    with pytest.raises((UserError, ValueError, TypeError)) as error:
        comparison(tiny_corpus, arms=tuple(Arm(**arm) for arm in arms))
    assert re.search(problem, message(error)), message(error)


@pytest.mark.parametrize("changes", [dict(rates=()), dict(rates=(1.0, 1.0)), dict(amount=0.0), dict(select="score")])
def test_a_comparison_that_makes_no_sense_is_refused(tiny_corpus, changes):
    with pytest.raises((UserError, ValueError)):
        comparison(tiny_corpus, **changes)


def test_equal_tokens_are_equal_steps_and_equal_predictions_are_not(tiny_corpus):
    """MLM at 20 % asks for a fifth of what CausalLM asks for: it takes five times the steps for the same signal."""
    by_tokens = Budget(comparison(tiny_corpus), {})
    assert {name: given.steps for name, given in by_tokens.arms.items()} == {"mlm": 10, "causal": 10}
    assert by_tokens.amount == 10 * 16 * 32
    mlm, causal = (by_tokens.arms[name].total for name in ("mlm", "causal"))
    assert mlm.tokens == causal.tokens and mlm.predicted_tokens < 0.25 * causal.predicted_tokens

    by_predictions = Budget(comparison(tiny_corpus, match="predicted_tokens", amount=4000.0), {}).arms
    assert 4 < by_predictions["mlm"].steps / by_predictions["causal"].steps < 6
    for given in by_predictions.values():
        assert given.total.predicted_tokens == pytest.approx(4000, rel=0.1)


def test_equal_flops_are_those_of_the_formula(tiny_corpus):
    c = comparison(tiny_corpus, match="flops")
    budget = Budget(c, {})
    step = c.base.flops_per_step(Prepared.open(tiny_corpus).tokenizer.vocab)
    assert budget.arms["mlm"].step.flops == step and budget.amount == 10 * step
    assert budget.arms["causal"].steps == round(10 * step / budget.arms["causal"].step.flops) < 10


def test_seconds_have_to_be_measured_and_decide_then(tiny_corpus):
    c = comparison(tiny_corpus, match="seconds", amount=6.0)
    with pytest.raises(UserError, match="not been timed"):
        Budget(c, {})
    measured = {"mlm": Measured("", 7, (1e9,), (0.5,)), "causal": Measured("", 7, (2e9,), (1.0,))}
    budget = Budget(c, measured)
    assert [budget.arms[name].steps for name in ("mlm", "causal")] == [12, 6]
    assert budget.arms["causal"].total.seconds == 6 and budget.arms["mlm"].total.flops_compiled == 12e9


def test_a_branch_pays_for_the_beginning_that_it_shares(tiny_corpus):
    c = comparison(
        tiny_corpus,
        match="flops",
        arms=(
            Arm(name="causal", changes=("objective=CausalLM",)),
            Arm(name="then", after="causal", at=0.5),
            Arm(name="later", after="then", at=0.75, changes=("objective=CausalLM",)),
        ),
    )
    budget = Budget(chz.replace(c, base=chz.replace(c.base, steps=100)), {})
    causal, then, later = (budget.arms[name] for name in ("causal", "then", "later"))
    assert abs(then.start - causal.steps / 2) < 1 and then.start < later.start < then.steps
    assert then.steps > causal.steps  # masked rows are cheaper, so more of them are read
    for given in (then, later):
        assert given.total.flops == pytest.approx(budget.amount, rel=0.02)
    assert then.total.flops == then.start * causal.step.flops + (then.steps - then.start) * then.step.flops
    for arm in c.arms:
        spent = [budget.spent(arm, step) for step in range(budget.arms[arm.name].steps + 1)]
        assert spent[0] == 0 and spent == sorted(spent) and spent[-1] == pytest.approx(budget.amount, rel=0.02)


def test_a_schedule_costs_what_its_phases_do(tiny_corpus):
    phases = ("objective=Schedule", "objective.phases.0.objective=CausalLM", "objective.phases.1.objective=MLM")
    c = comparison(tiny_corpus, arms=(Arm(name="both", changes=phases), *comparison(tiny_corpus).arms))
    both, mlm, causal = (given.step.flops for given in Budget(c, {}).arms.values())
    assert min(mlm, causal) < both < max(mlm, causal)


@pytest.mark.parametrize("match", ["tokens", "predicted_tokens", "flops"])
def test_branches_of_schedules_cost_the_stages_that_they_take(tiny_corpus, match):
    """Parent: causal, then masked. A child that leaves in the middle has taken the causal half alone; a child that is a
    schedule itself takes only what of its stages lies behind."""
    phases = ("objective=Schedule", "objective.phases.0.objective=CausalLM", "objective.phases.1.objective=MLM")
    arms = (
        Arm(name="both", changes=phases),
        Arm(name="masked", after="both", at=0.4),
        Arm(name="late", changes=phases, after="masked", at=0.6),
        Arm(name="causal", changes=("objective=CausalLM",)),
        Arm(name="mlm"),
    )
    c = comparison(tiny_corpus, arms=arms, match=match)
    budget = Budget(chz.replace(c, base=chz.replace(c.base, steps=400)), {})
    both, masked, late, causal, mlm = budget.arms.values()
    unit = lambda given: getattr(given.step, match)  # noqa: E731
    half = both.steps // 2
    assert budget.spent(arms[0], half) == pytest.approx(half * unit(causal), rel=0.01)
    assert masked.start < half or match == "tokens"
    by_hand = min(masked.start, half) * unit(causal) + max(masked.start - half, 0) * unit(mlm)
    by_hand += (masked.steps - masked.start) * unit(mlm)
    assert getattr(masked.total, match) == pytest.approx(by_hand, rel=0.01)
    for given in budget.arms.values():
        assert getattr(given.total, match) == pytest.approx(budget.amount, rel=0.01)
    assert late.start > masked.start


@pytest.mark.parametrize("key, value", [("until", 5), ("branch_from", "runs/x@3")])
def test_where_runs_begin_and_pause_is_not_the_base_s_to_say(tiny_corpus, key, value):
    with pytest.raises(ValueError, match=f"base.{key}"):
        comparison(tiny_corpus, base=experiment(tiny_corpus, **{key: value}))


def test_an_amount_that_buys_nothing_is_refused(tiny_corpus):
    with pytest.raises(UserError, match="arm mlm: .*less than one step"):
        Budget(comparison(tiny_corpus, amount=10.0), {})


def test_what_was_measured_of_an_arm_that_has_changed_is_not_used(tiny_corpus):
    c = comparison(tiny_corpus)
    assert set(not_measured(c, {})) == {"mlm", "causal"}
    known = {arm.name: Measured(digest(c.changed(arm)), 1, (1.0,), (1.0,)) for arm in c.arms}
    assert not not_measured(c, known)
    assert set(not_measured(override(c, ["arms.1.changes=['objective=PLM']"]), known)) == {"causal"}


def test_damaged_costs_are_told(tmp_path):
    assert read_costs(tmp_path) == {}
    (tmp_path / "costs.json").write_text('{"mlm": 3}')
    with pytest.raises(UserError, match="damaged.*delete it"):
        read_costs(tmp_path)


def test_runs_of_an_arm_differ_from_it_in_steps_seed_and_rate_alone(tiny_corpus, tmp_path):
    c = tailored(experiment(tiny_corpus), Arm(name="a", budget=2.0), Arm(name="b", after="a", at=0.5), rates=(1.0, 2.0))
    study = Study(c, tmp_path)
    run = study.runs.of(c.arm("a"), 2.0, 7)
    assert run.experiment.steps == 20 and run.experiment.seed == 7
    assert run.experiment.optimizer == chz.replace(c.base.optimizer, peak_lr=2 * c.base.optimizer.peak_lr)
    assert run.experiment.checkpoint.keep_steps == (5,)
    branch = study.runs.of(c.arm("b"), 1.0, 7, run)
    assert branch.experiment.branch_from == f"{run.folder}@5" and branch.experiment.first_step == 5
    assert run.name == "a/rate2-seed7"
