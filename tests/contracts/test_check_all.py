"""The table of docs/objectives.md: made of what the laws found, and only again where code has changed."""

import pytest

from ptjax import check
from ptjax.check import Result
from ptjax.objectives import MLM

from . import cases, check_all


@pytest.fixture
def found(monkeypatch, tmp_path):
    """Laws that answer at once: the pairs that were looked at, in order."""
    asked = []

    def answer(experiment):
        names = type(experiment.objective).__name__, type(experiment.model).__name__
        asked.append((*names, experiment.model.memory_length))
        broken = names == ("MLM", "GPT")
        return [Result(not broken, law="documents"), Result(None, law="future"), Result(not broken, law="learns")]

    monkeypatch.setattr(check, "check", answer)
    monkeypatch.setattr(check_all, "RESULTS", tmp_path)
    monkeypatch.setattr(check_all, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(check_all.cli, "set_up_jax", lambda: None)
    monkeypatch.setattr(check_all, "set_up_devices", lambda: None)
    check_all.PAGE.write_text("before\n" + check_all.MARKS[0] + "old\n" + check_all.MARKS[1] + "\nbehind\n")
    return asked


def test_the_table(found):
    check_all.main()
    lines = check_all.PAGE.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "behind") and "old" not in lines
    head, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line]
    assert head[1:] == list(cases.SHIPPED_BODIES)
    table = {row[0]: dict(zip(head[1:], row[1:])) for row in rows[1:]}
    assert set(table) == {f"`{name}`" for name in cases.SHIPPED_OBJECTIVES}
    assert table["`MLM`"]["BERT"] == "✓" and table["`MLM`"]["GPT"] == "✗ documents, learns"
    assert table["`PLM`"]["XLNet"] == "✓" and table["`PLM`"]["BERT"] == table["`MLM`"]["T5"] == "–"
    memories = {objective: memory for objective, body, memory in found if body == "TransformerXL"}
    assert memories["CausalLM"] > 0 and memories["MLM"] == 0


def test_it_goes_on_where_it_stopped(found, monkeypatch):
    check_all.look("MLM", "BERT")
    check_all.look("MLM", "BERT")
    assert len(found) == 1
    table = check_all.with_table(check_all.PAGE.read_text())
    (row,) = [line.split(" | ")[1:] for line in table.splitlines() if line.startswith("| `MLM` |")]
    assert [body for body, cell in zip(cases.SHIPPED_BODIES, row) if cell == "✓"] == ["BERT"]
    monkeypatch.setattr(check_all, "fingerprint", lambda *_: "other code")
    check_all.look("MLM", "BERT")
    assert len(found) == 2


def test_code_that_a_pair_uses():
    code = set(check_all.code_of("ptjax.check", MLM.__module__))
    assert {"ptjax.objectives.mlm", "ptjax.objectives.masking", "ptjax.check.leaks", "ptjax.learner"} <= code
    assert "ptjax.objectives.rtd" not in code
