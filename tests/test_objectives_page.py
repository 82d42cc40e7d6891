"""The numbers of docs/objectives.md are what the objectives say of themselves."""

import re
from pathlib import Path

import pytest

from ptjax import objectives
from ptjax.data.tokenizers import VocabSpec
from ptjax.models import BERT, T5, XLNet

PAGE = (Path(__file__).parents[1] / "docs" / "objectives.md").read_text()
ROWS = re.findall(r"^\| `(\w+)` \| ([^|]*) \| (\d\.\d\d) \|$", PAGE, re.MULTILINE)
BODIES = {"PLM": XLNet, "SpanCorruption": T5, "UL2": T5}
LENGTH, VOCAB = 512, VocabSpec.synthetic(30_000)


def flops(name: str) -> float:
    objective = getattr(objectives, name)()
    return objective.flops_per_row(BODIES.get(name, BERT).preset("base"), LENGTH, objective.vocabulary(VOCAB))


@pytest.mark.parametrize("name, asked, cost", ROWS, ids=[row[0] for row in ROWS])
def test_what_it_asks_and_what_it_costs(name, asked, cost):
    predicted = getattr(objectives, name)().predicted(LENGTH)
    said = dict(re.findall(r"(\w+) (\d\.\d{3})", asked))
    assert {term: f"{value / LENGTH:.3f}" for term, value in predicted.items()} == said
    assert f"{flops(name) / flops('CausalLM'):.2f}" == cost


def test_every_objective_is_there():
    plain = {name for name in objectives.__all__ if issubclass(getattr(objectives, name), objectives.Objective)}
    plain -= {"Objective", "Mixed", "Schedule"}  # the sums of their parts
    assert {name for name, _, _ in ROWS} == plain
    assert all(f"objective={name}" in PAGE for name in plain | {"Mixed", "Schedule"})
