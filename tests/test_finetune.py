"""Fine-tuning end to end on tiny models: grids, selection, what is kept, resuming, and what goes wrong."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import chz
import jax
import numpy as np
import pytest

from ptjax import partition
from ptjax.config import UserError, from_json, to_json
from ptjax.data.examples import Examples
from ptjax.finetune import FineTuning, Recipe, finetune
from ptjax.finetune.best import Best
from ptjax.finetune.cells import Cell, CellFolder, locked, selected_rate
from ptjax.finetune.grid import Grid, limited
from ptjax.finetune.log import Log, rounded_curve
from ptjax.finetune.tuner import Tuner
from ptjax.pretrained import Pretrained
from ptjax.tasks import LoRA, Probe, SequenceClassification, SequenceRegression
from ptjax.tasks.sequence import shortened

WORDS = {"good": ("with", "statement"), "bad": ("import", "module")}


@chz.chz
class Topics(Examples):
    """Sentences with a word of their class among words that say nothing; `numbers`: a number in place of a class."""

    numbers: bool = chz.field(default=False, doc="labels are numbers")
    hidden: bool = chz.field(default=False, doc="the test has no labels")

    @property
    def available(self):
        return ("train", "validation", "test")

    def load(self, split):
        random = np.random.default_rng(("train", "validation", "test").index(split))
        for i in range(96 if split == "train" else 32):
            label = ("good", "bad")[i % 2]
            words = [*random.choice(["the", "object", "value", "name", "class"], 4), WORDS[label][i // 2 % 2]]
            example = {"id": f"{split}{i}", "text": " ".join(random.permutation(words))}
            if not (self.hidden and split == "test"):
                example["label"] = (100.0 + 5 * (i % 2)) if self.numbers else label
            yield example


RECIPE = Recipe(learning_rates=(1e-2,), epochs=6.0, batch_size=16, evaluations=3)


@pytest.fixture(autouse=True)
def first_device(request, monkeypatch):
    """A small model on one device; the first grid of them has all."""
    if not {"tuned", "change"} & set(request.fixturenames):
        make_mesh = partition.make_mesh
        monkeypatch.setattr(partition, "make_mesh", lambda config, devices=None: make_mesh(config, jax.devices()[:1]))


@pytest.fixture(scope="module")
def begin(trained):
    return str(trained("mlm").workdir)


def classification(begin, **changes) -> FineTuning:
    task = SequenceClassification(name="topics", examples=Topics(), length=16, dropout=0.0)
    return chz.replace(FineTuning(task=task, init_from=begin, recipe=RECIPE), **changes)


@pytest.fixture(scope="module")
def tuned(begin, tmp_path_factory):
    """A finished grid of a useless rate and a good one, with two seeds: (config, workdir, result, what was said)."""
    workdir, said = tmp_path_factory.mktemp("tuned") / "run", []
    config = classification(begin, recipe=chz.replace(RECIPE, learning_rates=(1e-7, 1e-2), seeds=(0, 1)))
    return config, workdir, finetune(config, workdir, on_event=said.append), said


def answers(workdir, cell, split="test"):
    path = CellFolder.of(workdir, cell).path / f"{split}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_grid_learns_selects_and_writes(tuned):
    config, workdir, result, said = tuned
    assert result["learning_rate"] == 1e-2 and result["cells"] == ["lr0.01-seed0", "lr0.01-seed1"]
    assert result["failed"] == {} and result["examples"] == {"train": 96, "validation": 32, "test": 32}
    assert json.loads((workdir / "result.json").read_text()) == result
    for rate, worst, best in ((1e-7, 0.0, 0.8), (1e-2, 0.9, 1.0)):
        for seed in (0, 1):
            cell = CellFolder.of(workdir, Cell(rate, seed)).read()
            assert worst <= cell["scores"]["test"]["accuracy"] <= best
            assert cell["steps"] == 36 and len(cell["validation"]) == 3 and cell["tokens"] > 0
            written = answers(workdir, Cell(rate, seed))
            right = np.mean([x["prediction"] == y["label"] for x, y in zip(written, config.task.examples.read("test"))])
            assert right == pytest.approx(cell["scores"]["test"]["accuracy"])
            assert all(sum(x["chances"].values()) == pytest.approx(1, abs=1e-4) for x in written)
    assert any("body taken" in line and "classifier fresh" in line for line in said)


def test_seeds_differ_and_repeat(tuned, begin, tmp_path):
    config, workdir, *_ = tuned
    first, other = (answers(workdir, Cell(1e-2, seed)) for seed in (0, 1))
    assert first != other
    finetune(classification(begin), tmp_path / "again", on_event=str)
    assert answers(tmp_path / "again", Cell(1e-2, 0)) == first  # alone or in a grid


def test_the_grid_compiles_once(begin, tmp_path, monkeypatch):
    """One step and one prediction for each length of rows, whatever the rate and the seed."""
    recipe = chz.replace(RECIPE, learning_rates=(1e-3, 1e-2), seeds=(0, 1, 2))
    grid = Grid(classification(begin, recipe=recipe), Pretrained.open(begin), tmp_path, str)
    tuner, traced = grid.tuner, []
    step = tuner.learner.train_step
    monkeypatch.setattr(type(tuner.learner), "train_step", lambda self, *rest: traced.append(1) or step(*rest))
    assert len(grid.run()["cells"]) == 3
    assert len(traced) == len({grid.encoded["train"].fitting(np.array([row])) for row in range(96)}) == 1


def test_done_cells_are_not_run_again_and_others_can_join(tuned, begin, monkeypatch, tmp_path):
    config, workdir, result, _ = tuned
    monkeypatch.setattr(Grid, "_train", lambda self, logs: pytest.fail("nothing is left"))
    again = finetune(config, workdir, on_event=str)
    assert again == result
    more, asked = chz.replace(config, recipe=chz.replace(config.recipe, seeds=(0, 1, 2))), []
    monkeypatch.setattr(Grid, "_train", lambda self, logs: asked.extend(log.cell for log in logs) or 0.0)
    finetune(more, workdir, on_event=str)
    assert asked == [Cell(1e-7, 2), Cell(1e-2, 2)]
    for cell in asked:
        shutil.rmtree(CellFolder.of(workdir, cell).path)
    with pytest.raises(UserError, match="recipe.epochs: 6.0 there, 2.0 here"):
        finetune(chz.replace(config, recipe=chz.replace(config.recipe, epochs=2.0)), workdir, on_event=str)
    (workdir / "config.json").write_text(to_json(config))


def test_the_best_model_is_kept_whole(tuned):
    config, workdir, *_ = tuned
    best = Pretrained.open(workdir / "best")
    assert not best.causal and best.objective.labels == ("bad", "good") and best.objective.pool == "mean"
    encoded = best.objective.encode(config.task.examples.read("test"), best.tokenizer)
    grid = Grid(config, Pretrained.open(config.init_from), workdir, str)
    tuner = grid.tuner
    assert best.objective.examples.available == ()
    params = best.source.read(jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
                                           tuner.abstract.params, tuner.shardings.params))  # fmt: skip
    given = best.objective.answers(grid.splits["test"], encoded, tuner.predict(params, encoded), best.tokenizer)
    assert given in [answers(workdir, Cell(1e-2, seed)) for seed in (0, 1)]


def test_a_fine_tuned_model_begins_another(tuned, tmp_path):
    _, workdir, *_ = tuned
    task = SequenceRegression(name="numbers", examples=Topics(numbers=True), length=16)
    config = FineTuning(task=task, init_from=str(workdir / "best"), recipe=RECIPE)
    result = finetune(config, tmp_path, on_event=str)
    cell = CellFolder.of(tmp_path, Cell(1e-2, 0)).read()
    assert cell["scores"]["test"]["pearson"] > 0.9 and result["metric"] == "pearson"
    numbers = [x["prediction"] for x in answers(tmp_path, Cell(1e-2, 0))]
    assert 95 < min(numbers) and max(numbers) < 110  # in the units of the labels


@pytest.mark.parametrize("tuning", [Probe(), LoRA(rank=2, targets=("query", "value"))], ids=["probe", "lora"])
def test_what_does_not_learn_stays(tuning, begin, tmp_path):
    config = classification(begin)
    config = chz.replace(config, task=chz.replace(config.task, tuning=tuning))
    result = finetune(config, tmp_path, on_event=str)
    assert result["learning_parameters"] < result["parameters"] / 10
    best, start = Pretrained.open(tmp_path / "best"), Pretrained.open(begin)
    read = lambda one: one.source.read({"body": jax.tree.map(  # noqa: E731
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0])),
        one.source.shapes["body"])})  # fmt: skip
    equal = jax.tree.map(lambda a, b: bool((a == b).all()), read(best), read(start))
    changed = {jax.tree_util.keystr(path, simple=True, separator="/")
               for path, same in jax.tree_util.tree_leaves_with_path(equal) if not same}  # fmt: skip
    kernels = {f"body/layers/block/attention/{name}/kernel" for name in ("query", "value")}
    assert changed == (set() if isinstance(tuning, Probe) else kernels)
    assert set(best.source.shapes) == {"body", "classifier"}


def test_together_is_alone(tuned, begin, tmp_path):
    """Runs under vmap: the same answers as one by one (there is no dropout here in the body; none in the head)."""
    config = classification(begin, recipe=chz.replace(RECIPE, seeds=(0, 1), evaluations=1))
    for together in (1, 2):
        recipe = chz.replace(config.recipe, together=together)
        finetune(chz.replace(config, recipe=recipe), tmp_path / str(together), on_event=str)
    for seed in (0, 1):
        alone, both = (answers(tmp_path / str(n), Cell(1e-2, seed)) for n in (1, 2))
        for a, b in zip(alone, both, strict=True):
            assert a["chances"]["good"] == pytest.approx(b["chances"]["good"], abs=1e-4)


def test_a_crash_leaves_the_others_alone(begin, tmp_path, monkeypatch):
    config = classification(begin, recipe=chz.replace(RECIPE, seeds=(0, 1), evaluations=1))
    init, said = Tuner.init, []

    def first_fails(self, rates, seeds):
        if seeds == [0]:
            raise RuntimeError("a cosmic ray")
        return init(self, rates, seeds)

    monkeypatch.setattr(Tuner, "init", first_fails)
    result = finetune(config, tmp_path, on_event=said.append)
    assert result["cells"] == ["lr0.01-seed1"] and "a cosmic ray" in result["failed"]["lr0.01-seed0"]
    assert any("seed0 failed" in line and "a cosmic ray" in line for line in said)
    monkeypatch.undo()
    assert finetune(config, tmp_path, on_event=str)["failed"] == {}  # what failed is tried again


def test_a_rate_that_diverges_is_reported(begin, tmp_path):
    config = classification(begin, recipe=chz.replace(RECIPE, learning_rates=(1e30,), evaluations=1))
    with pytest.raises(UserError, match="every run of topics failed; .* is not finite"):
        finetune(config, tmp_path, on_event=str)


def test_hidden_labels_are_predicted_and_not_scored(begin, tmp_path):
    config = classification(begin, recipe=chz.replace(RECIPE, evaluations=1))
    config = chz.replace(config, task=chz.replace(config.task, examples=Topics(hidden=True)))
    finetune(config, tmp_path, on_event=str)
    cell = CellFolder.of(tmp_path, Cell(1e-2, 0)).read()
    assert set(cell["scores"]) == {"validation"} and len(answers(tmp_path, Cell(1e-2, 0))) == 32


@pytest.mark.parametrize("together", [1, 2])
def test_patience_ends_a_run(together, begin, tmp_path):
    """One that learns nothing, alone or beside one that does."""
    recipe = chz.replace(RECIPE, learning_rates=(1e-9, 1e-2)[:together], evaluations=12, patience=2, together=together)
    finetune(classification(begin, recipe=recipe), tmp_path, on_event=str)
    cell = CellFolder.of(tmp_path, Cell(1e-9, 0)).read()
    assert len(cell["validation"]) == 3 and cell["steps"] == 9 and cell["best_step"] == 3
    assert cell["loss"][-1][0] == 9 and cell["flops"] > 0


def test_dropout_is_of_the_seed_alone(begin, tmp_path):
    """Whoever else trains beside it."""
    losses = []
    for seeds in ((5, 7), (5, 9), (6, 7)):
        recipe = chz.replace(RECIPE, seeds=seeds, together=2, evaluations=1)
        config = classification(begin, recipe=recipe)
        config = chz.replace(config, task=chz.replace(config.task, dropout=0.5))
        finetune(config, tmp_path / str(seeds), on_event=str)
        losses.append([CellFolder.of(tmp_path / str(seeds), Cell(1e-2, seed)).read()["loss"] for seed in seeds])
    assert losses[0][0] == losses[1][0] and losses[0][1] == losses[2][1]
    assert losses[0][1] != losses[1][1] and losses[0][0] != losses[2][0]


def test_other_weights_or_examples_are_not_the_same_runs(begin, tmp_path):
    weights = tmp_path / "weights"
    shutil.copytree(begin, weights)
    config = classification(str(weights), recipe=chz.replace(RECIPE, evaluations=1))
    finetune(config, tmp_path / "run", on_event=str)
    shutil.rmtree(weights / "checkpoints" / "10")  # as if it had been trained on: another step is the last
    with pytest.raises(UserError, match="the weights in .* are not those that .*seed0 has learned from"):
        finetune(config, tmp_path / "run", on_event=str)
    config = classification(begin, recipe=chz.replace(RECIPE, evaluations=1))
    finetune(config, tmp_path / "other", on_event=str)
    path = tmp_path / "other" / "cells" / "lr0.01-seed0" / "cell.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"data": "another"}))
    with pytest.raises(UserError, match="the examples are not those"):
        finetune(config, tmp_path / "other", on_event=str)


def test_a_run_s_workdir_is_not_taken(begin, tmp_path):
    shutil.copytree(begin, tmp_path / "run")
    before = (tmp_path / "run" / "config.json").read_text()
    with pytest.raises(UserError, match="its config.json is of a Experiment, which a FineTuning would replace"):
        finetune(classification(begin), tmp_path / "run", on_event=str)
    assert (tmp_path / "run" / "config.json").read_text() == before


def test_two_at_one_workdir(begin, tmp_path):
    with locked(tmp_path), pytest.raises(UserError, match="another process is fine-tuning in"):
        finetune(classification(begin), tmp_path, on_event=str)


def test_the_best_stays_whatever_is_asked_next(tuned, tmp_path):
    config, workdir, result, _ = tuned
    note = Best(workdir).note()
    assert note["cell"] == result["best"] in result["cells"]
    shutil.copytree(workdir, tmp_path / "run")
    worse = chz.replace(config, recipe=chz.replace(config.recipe, learning_rates=(1e-7,)))
    assert finetune(worse, tmp_path / "run", on_event=str)["best"] == note["cell"]
    (tmp_path / "run" / "best").rename(tmp_path / "run" / "best.old")  # killed while it was replaced
    assert finetune(worse, tmp_path / "run", on_event=str)["best"] == note["cell"]
    assert Pretrained.open(tmp_path / "run" / "best").objective.examples.available == ()


def test_what_diverges_late_keeps_what_it_had():
    log = Log(Cell(1e-3, 0))
    assert log.learned([(1, 0.5)])
    log.validated(0.8, ["answer"], lambda: "params", None)
    assert not log.learned([(2, float("nan"))]) and log.over
    assert (log.params, log.best_step, log.best) == ("params", 1, 0.8) and "step 2 is not finite" in log.problem
    assert rounded_curve(log.loss) == [[1, 0.5]]


def test_two_processes_tune_as_one(tuned, tmp_path):
    """Each with one device and half of every batch, joined by `jax.distributed`: the run of one process."""
    config, workdir, *_ = tuned
    recipe = chz.replace(config.recipe, learning_rates=(1e-2,), seeds=(0,))
    (tmp_path / "config.json").write_text(to_json(chz.replace(config, recipe=recipe)))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=1"
    common = {**os.environ, "XLA_FLAGS": flags, "JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    command = [sys.executable, "-m", "experiments.finetune", f"--workdir={tmp_path}"]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
    processes = [subprocess.Popen(command, env=common | {"JAX_PROCESS_ID": str(i)}, **pipes) for i in range(2)]
    try:
        outputs = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], outputs
    alone, both = (CellFolder.of(folder, Cell(1e-2, 0)).read() for folder in (workdir, tmp_path))
    assert [value for _, value in both["loss"]] == pytest.approx([value for _, value in alone["loss"]], rel=1e-3)
    assert Best(tmp_path).note()["cell"] == "lr0.01-seed0" and "validation accuracy" not in outputs[1][0]


def test_limits_are_nested():
    examples = [{"id": str(i)} for i in range(50)]
    few, more = limited(examples, 10), limited(examples, 20)
    assert len(few) == 10 and all(example in more for example in few) and limited(examples, None) == examples


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(init_from=None), "say what to begin from"),
        (dict(init_from="/nowhere"), "no such folder"),
        (dict(recipe=Recipe(batch_size=12)), "recipe.batch_size=12 does not divide into 8 shards"),
    ],
)
def test_mistakes(change, message, begin, tmp_path):
    with pytest.raises(UserError, match=message):
        finetune(classification(begin, **change), tmp_path, on_event=str)


def test_rows_too_long_for_the_body(begin, tmp_path):
    config = classification(begin)
    config = chz.replace(config, task=chz.replace(config.task, length=100))
    with pytest.raises(UserError, match="task.length=100 is longer than the body's position table"):
        finetune(config, tmp_path, on_event=str)


@pytest.mark.parametrize(
    "wrong", [dict(learning_rates=()), dict(learning_rates=(1e-3, 1e-3)), dict(seeds=(-1,)), dict(epochs=0.0)]
)
def test_recipes_that_cannot_be(wrong):
    with pytest.raises(Exception, match=f"recipe.{next(iter(wrong))}"):
        Recipe(**wrong)


def test_a_config_is_its_json(begin):
    config = classification(begin, mesh=FineTuning(task=classification(begin).task).mesh)
    assert from_json(to_json(config), FineTuning) == config


def test_selection():
    score = lambda value: {"scores": {"validation": {"f1": value}}}  # noqa: E731
    cells = {Cell(1e-3, 0): score(0.9), Cell(1e-3, 1): score(0.1), Cell(1e-4, 0): score(0.6), Cell(1e-4, 1): score(0.6)}
    assert selected_rate(cells, "f1") == 1e-4  # by the mean
    assert selected_rate({cell: score(0.5) for cell in cells}, "f1") == 1e-4  # the lower one of equals
    del cells[Cell(1e-4, 1)]
    assert selected_rate(cells, "f1") == 1e-3  # one that fails for fewer seeds


def test_long_pairs_lose_the_longer_one_first():
    a, b = np.arange(100), np.arange(10)
    sizes = lambda x, y, room: tuple(map(len, shortened(x, y, room)))  # noqa: E731
    assert sizes(a, b, 50) == (40, 10) and sizes(b, a, 50) == (10, 40) and sizes(a, a, 51) == (26, 25)
    assert sizes(b, b, 50) == (10, 10) and sizes(a, b, 0) == (0, 0) and sizes(a, b, -3) == (0, 0)


def test_long_curves_are_means():
    curve = rounded_curve([(i + 1, float(i % 2)) for i in range(1000)], most=100)
    assert len(curve) == 100 and curve[-1] == [1000, 0.5]
    assert rounded_curve([]) == []
