"""What ptjax says of a folder that it wrote: believed only of a folder that nobody changed, and never run."""

import json
import sys

import pytest

from ptjax.interop.mark import KEY, _digest, objective_of, write_config
from ptjax.objectives import MLM, UL2, CausalLM, Mixed, Part, Phase, Schedule

THEIRS = {"model_type": "bert", "hidden_size": 16}
MIXED = Mixed(mixture=(Part(objective=CausalLM(), weight=0.25), Part(objective=MLM(rate=0.3), weight=0.75)))


@pytest.mark.parametrize(
    "objective",
    [MLM(rate=0.2), UL2(), MIXED, Schedule(phases=(Phase(objective=CausalLM(), share=0.5), Phase(objective=MLM())))],
    ids=lambda objective: type(objective).__name__,
)
def test_an_objective_comes_back(objective, tmp_path):
    write_config(tmp_path, THEIRS, objective)
    theirs = json.loads((tmp_path / "config.json").read_text())
    assert objective_of(theirs) == objective
    # Others went on with it, as transformers reads it.
    assert objective_of(theirs | {"transformers_version": "5"}) is None


def marked(objective):
    return THEIRS | {KEY: {"config": _digest(THEIRS), "objective": objective}}


def test_no_module_is_imported_that_a_file_names(tmp_path, monkeypatch):
    (tmp_path / "stranger.py").write_text("from ptjax.objectives import MLM\n")
    monkeypatch.syspath_prepend(tmp_path)
    part = {"mixture.0": "ptjax.objectives.mixed:Part", "mixture.0.weight": 1.0}
    mixed = {"": "ptjax.objectives.mixed:Mixed", "mixture.0.objective": "stranger:MLM"} | part
    for flat in (
        {"": "stranger:MLM"},
        mixed,
        {"": "ptjax.train:Experiment"},
        {"": 5},
        {"": ["a"]},
        {},
        [],
        "MLM",
        None,
    ):
        assert objective_of(marked(flat)) is None
    assert "stranger" not in sys.modules
    assert objective_of(THEIRS) is None and objective_of(THEIRS | {KEY: []}) is None


def test_fields_of_another_version_are_no_error():
    name = "ptjax.objectives.mlm:MLM"
    assert objective_of(marked({"": name, "rate": 0.3})) == MLM(rate=0.3)
    assert (
        objective_of(marked({"": name, "colour": 3})) is None and objective_of(marked({"": name, "rate": "x"})) is None
    )
