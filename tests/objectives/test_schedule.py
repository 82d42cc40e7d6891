"""Objectives one after another: each step asks its phase's question, and what a phase does not have rests in it."""

import jax
import pytest

from ptjax.config import UserError, from_json, override, to_json
from ptjax.logging import read_metrics
from ptjax.objectives import MLM, CausalLM, Phase, Schedule
from ptjax.train import Checkpointing, Run, train

from ..contracts import cases
from ..small import experiment, rewound, same

SCHEDULE = Schedule(phases=(Phase(objective=CausalLM(), share=3.0), Phase(objective=MLM(rate=0.2), share=2.0)))


def test_stages_cover_the_run():
    stages = SCHEDULE.stages(10)
    assert [(stage.start, stage.stop) for stage in stages] == [(0, 6), (6, 10)]
    assert [type(stage.objective) for stage in stages] == [CausalLM, MLM]
    with pytest.raises(UserError, match="MLM has no step of steps=1: more steps, or a larger share"):
        SCHEDULE.stages(1)
    for steps in range(2, 40):
        covered = [step for stage in SCHEDULE.stages(steps) for step in range(stage.start, stage.stop)]
        assert covered == list(range(steps))


@pytest.fixture(scope="module")
def ran(tiny_corpus, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("schedule")
    checkpoint = Checkpointing(every=3, minutes=None, keep=9, best=None)
    run = Run.open(experiment(tiny_corpus, objective=SCHEDULE, checkpoint=checkpoint))
    state, scores = train(run, workdir)
    return run, state, scores, workdir


def test_each_step_asks_its_phase(ran, tiny_corpus, tmp_path):
    """The first phase is the run of its objective alone, step by step; the second starts where it ends."""
    _, _, scores, workdir = ran
    losses = [line["loss"] for line in read_metrics(workdir, "train")]
    train(Run.open(experiment(tiny_corpus, objective=CausalLM())), tmp_path / "causal")
    alone = [line["loss"] for line in read_metrics(tmp_path / "causal", "train")]
    assert losses[:6] == pytest.approx(alone[:6], rel=1e-6)
    assert losses[6] != pytest.approx(alone[6], rel=1e-4)
    assert "pseudo_perplexity" in scores  # validation asks the last phase's question


def test_a_head_rests_until_its_phase(ran):
    run, state, _, _ = ran
    fresh = run.init()
    step = run.train_step(0)
    batches = run.pipeline.iterate(0, 1)
    first, _ = step(run.init(), step.place(next(batches)))
    leafwise = lambda a, b: [bool((x == y).all()) for x, y in zip(*map(jax.tree.leaves, jax.device_get((a, b))))]
    assert all(leafwise(fresh.params["head"], first.params["head"]))  # not even by weight decay
    assert not any(
        leafwise(fresh.params["body"]["layers"]["block"]["mlp"], first.params["body"]["layers"]["block"]["mlp"])
    )
    assert not all(leafwise(fresh.params["head"], state.params["head"]))


@pytest.mark.parametrize("step", [3, 6, 9])
def test_resumes_in_every_phase(ran, step, tmp_path):
    run, state, _, workdir = ran
    again, _ = train(run, rewound(workdir, step, tmp_path / "run"))
    assert same(state, again)


def test_by_command_line_and_json():
    e = override(
        cases.experiment("mlm", "bert"),
        ["objective=Schedule", "objective.phases.0.objective=CausalLM", "objective.phases.1.objective=MLM"]
        + ["objective.phases.1.share=0.5", "objective.phases.1.objective.rate=0.3"],
    )
    assert e.objective == Schedule(phases=(Phase(objective=CausalLM()), Phase(objective=MLM(rate=0.3), share=0.5)))
    assert from_json(to_json(e)) == e


def test_mistakes():
    with pytest.raises(ValueError, match="phases: at least one"):
        Schedule(phases=())
    with pytest.raises(ValueError, match="write its phases in a row"):
        Schedule(phases=(Phase(objective=SCHEDULE),))
