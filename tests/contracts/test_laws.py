"""The laws of `ptjax.check`, for every objective and every body that ships."""

import functools

import jax
import pytest

from ptjax import check
from ptjax.check.layouts import same
from ptjax.partition import MeshConfig

from . import cases

# On pairs but the first, one layout that is all of them but pmap; and no guessing of random tokens.
COMBINED = functools.partial(same, accumulation=2, mesh=MeshConfig(data=1, fsdp=2, expert=2, tensor=2))
FEW = {name: law for name, law in check.LAWS.items() if name not in ("accumulation", "mesh", "pmap", "answer")}
FEW |= {"layout": COMBINED}
# What trains by the same code as another pair is asked the laws that do not train: compiling is what costs.
ASKED = {name: law for name, law in FEW.items() if name not in ("learns", "layout")}
LIKE_ANOTHER = {("CausalLM", "GPT"), ("CausalLM", "Llama"), ("UL2", "GPT"), ("mlm-whole-words", "RoBERTa")}
# Objectives that learn on another body, and bodies whose gradients tests/interop/test_families.py holds to published
# ones; a schedule's phases learn each by itself, and tests/objectives/test_schedule.py has them train in turn.
LEARNS_ELSEWHERE = {("MLM", "DeBERTa"), ("MLM", "ModernBERT"), ("CausalLM", "mixtral"), ("Schedule", "BERT")}
SKIPPED = {
    "future": {"MLM", "mlm-whole-words", "MaskedDiffusion", "RTD", "NSP", "SOP"},  # read in both directions
    "documents": {"NSP", "SOP"},  # one text a row
}


def laws(pair: tuple[str, str]) -> dict[str, check.Law]:
    if pair == cases.PAIRS[0]:
        return check.LAWS
    if pair in LEARNS_ELSEWHERE:
        return {name: law for name, law in FEW.items() if name != "learns"}
    return ASKED if pair in LIKE_ANOTHER else FEW


@pytest.mark.parametrize("objective,body", cases.PAIRS)
def test_laws(objective, body):
    results = list(check.check(cases.experiment(objective, body), laws((objective, body))))
    assert [result for result in results if result.passed is False] == []
    skipped = {result.law for result in results if result.passed is None}
    assert skipped == {law for law, where in SKIPPED.items() if objective in where}


def test_every_objective_and_every_body_is_there():
    assert {objective for objective, _ in cases.PAIRS} >= set(cases.SHIPPED_OBJECTIVES)
    assert {body for _, body in cases.PAIRS} >= set(cases.SHIPPED_BODIES)


def test_training_moves_every_parameter():
    """Otherwise the laws of layouts would compare initial values."""
    trainer = cases.Trainer(cases.experiment("mlm", "bert"))
    before = trainer.params
    trainer.train([cases.batch(0)])
    moved = jax.tree.map(lambda a, b: (a != b).any(), before, trainer.params)
    # A key's bias shifts all logits of a query alike, and softmax does not see it.
    del moved["body"]["layers"]["block"]["attention"]["key"]["bias"]
    assert all(jax.tree.leaves(moved)), moved
