"""What the Markdown says about a comparison, and that nothing in it is markup but what should be."""

import re

import pytest

from ptjax.report import comparison_markdown
from ptjax.report.markdown import code, prose
from tests.report.comparisons import HASH, comparison, incomplete
from tests.report.test_comparison_page import HOSTILE, points, without_each_key
from tests.report.test_leaderboard_page import STRINGS


def sections(text: str) -> dict[str, str]:
    parts = re.split(r"^## (.*)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2]))


def tables(text: str) -> list[list[list[str]]]:
    """Cells of each table, as a renderer splits them; rows are as long as the heading."""
    found = []
    for block in re.findall(r"(?:^\|.*\n?)+", text, flags=re.MULTILINE):
        rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in block.strip().splitlines()]
        assert {len(row) for row in rows} == {len(rows[0])}, rows
        assert all(re.fullmatch("-{2,}:?|-+", cell) for cell in rows[1]), rows[1]
        found.append([rows[0], *rows[2:]])
    return found


def test_it_says_what_the_comparison_says():
    made = comparison()
    made["pretraining_differences"][0] |= {"mean": -0.25, "low": -0.4, "high": -0.1}
    text = comparison_markdown(made)
    assert text.startswith(f"# Comparison: objectives\n\n{made['question']}\n\n**causal** leads **mlm** by ")
    found = sections(text)
    assert [*found] == [
        "Arms",
        "Scores",
        "Differences",
        "Pairing",
        "Budget",
        "Learning rates",
        "Scaling",
        "Config differences",
        "Cost",
        "Failed",
        "How to read this",
    ]
    names = [task["name"] for task in made["suite"]["tasks"]]
    ((head, *rows),) = tables(found["Scores"])
    assert head == ["arm", "score", *names, "bits a byte, CausalLM", "bits a byte, MLM(rate=0.15)"]
    for row, arm in zip(rows, made["arms"], strict=True):
        score = arm["score"]
        around = f"{points(score['mean'])} [{points(score['low'])}, {points(score['high'])}]"
        assert row[:2] == [arm["name"], around]
        assert [cell == "–" for cell in row[-2:]] == ([0, 1] if arm["name"] == "causal" else [1, 0])
        assert row[2:-2] == [points(arm["tasks"][name]["mean"]) for name in names]
    pairs, by_task, validated = tables(found["Differences"])
    (d,) = made["pretraining_differences"]
    assert validated[1][:2] == [f"{d['a']} − {d['b']}", "−0.250 [−0.400, −0.100]"]
    assert "Validation by MLM(rate=0.15): bits a byte, lower is better" in found["Differences"]
    for row, fine, d in zip(pairs[1:], by_task[1:], made["differences"], strict=True):
        assert row == [
            f"{d['a']} − {d['b']}",
            f"{points(d['mean'], True)} [{points(d['low'])}, {points(d['high'])}]",
            f"{d['p']:.3f}",
            f"{d['p_holm']:.3f}",
            "no" if d["tie"] else "yes",
            "seed by seed",
        ]
        for cell, name in zip(fine[1:], names, strict=True):
            t = d["tasks"][name]
            told = not t["low"] <= 0 <= t["high"]
            assert cell == (f"**{points(t['mean'], True)}**" if told else points(t["mean"], True))
    ((_, *proof),) = tables(found["Pairing"])
    assert proof[2][:2] == ["batches", "✓ the same in all"] and proof[2][3] == f"`{HASH[:12]}` all 3"
    assert proof[3][1] == "≠ differs, as declared" and "model.width" in proof[3][2]
    runs, steps = tables(found["Budget"])
    assert runs[0][2] == "tokens (matched)"
    assert runs[1] == ["causal", "1,172", "**1.20 M**", "1.19 M", "2.10 T", "2 min 11 s", "1.1 M"]
    assert steps[2] == ["mlm", "MLM(rate=0.15)", "mlm 155", "1,024", "15.1", "1.83 G", "1.96 G", "0.120"]
    ((head, *rates),) = tables(found["Learning rates"])
    assert head == ["arm", "selected", "×0.5", "×1", "×2"]
    assert [[cell.startswith("**") for cell in row[2:]] for row in rates] == [[0, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert "⚠ causal-then-mlm-with-a-long-name" in found["Learning rates"]
    ((_, *fits),) = tables(found["Scaling"])
    assert [row[3] for row in fits] == ["+3.0 points [2.0, 4.0]", "−0.210 [−0.220, −0.200]"]
    assert [row[5] for row in fits] == ["3", "3"]
    ((_, *configs),) = tables(found["Config differences"])
    changed = [row for arm in made["arms"] for row in arm["difference"]]
    assert [[cell.strip("`") for cell in row[1:]] for row in configs] == changed
    ((_, *costs),) = tables(found["Cost"])
    assert costs[0] == ["causal", "5", "10.5 T", "4.4 T", "11 min 42 s", "21 min 51 s", "33 min 33 s"]
    assert "`ptjax.loop.NonFinite: the loss is nan at step 340; examples 12, 871, 3`" in found["Failed"]


def test_it_says_what_weakens_it():
    made = comparison()
    made["arms"][1]["score"]["seeds"] = made["arms"][1]["score"]["seeds"][:2]
    made["differences"][0] |= {"p": 0.03, "p_holm": 0.09}
    for arm in made["arms"]:
        arm["rate"]["grid"] = arm["rate"]["grid"][:1]
    text = comparison_markdown(made)
    found = sections(text)
    assert "but not after adjusting for 3 pairs; " in text and "Fewer seeds than planned: **mlm** has 2 of 3" in text
    assert tables(found["Differences"])[0][1][4] == "before adjusting"
    assert tables(found["Scores"])[0][2][0] == "mlm, 2 of 3 seeds"
    assert found["Learning rates"].strip().startswith("One rate each: no arm was tuned")
    assert "Masks and dropout follow from the seed and are not recorded" in found["Pairing"]
    assert "the optimizer's are not counted" in found["Budget"]
    assert "- **Headline metric**: " in found["How to read this"]


def test_it_stays_small_and_says_what_is_left():
    assert len(comparison_markdown(comparison()).encode()) < 16_000
    text = comparison_markdown(incomplete())
    assert "Incomplete: still to be done are 2 pre-trainings and 14 fine-tunings." in text
    assert "Pairing" not in sections(text)


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_becomes_markup(name):
    text = comparison_markdown(HOSTILE[name]())
    text.encode()
    tables(text)
    bare = re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", text)  # without what is code
    assert not re.search(r"(?<!\\)<[A-Za-z/!?]|(?<!\\)\]\(|://|www\.|\bnan\b|\bNone\b|\binf\b", bare), bare


@pytest.mark.parametrize(
    "text", [*STRINGS, "a*b_c*", "_x_ [a](b) ![c](d)", "1. x", "- x", "# x", "a | b", "&lt; x\n\n# y"]
)
def test_prose_and_code_stay_in_their_line_and_their_cell(text):
    for made in (prose(text), code(text)):
        assert "\n" not in made and not re.search(r"(?<!\\)\|", made)


def test_what_looks_like_markup_is_escaped_and_the_rest_is_left_alone():
    said = "bits_per_byte = a + b log10(FLOPs), [0.2, 2.4], p < 0.001, MLM(rate=0.15)"
    assert prose(said) == said
    assert prose("1. one") == "1\\. one" and prose("# one") == "\\# one" and prose("- one") == "\\- one"
    assert prose("-0.5") == "-0.5" and prose("67.0 [1]") == "67.0 [1]"
    assert prose("*a* _b_ <b> [x](y) &lt;") == "\\*a\\* \\_b\\_ \\<b> [x\\](y) \\&lt;"
    assert prose("see https://x.y") == "`see https://x.y`" and prose("a@b.c") == "`a@b.c`"
    assert code("a`b") == "``a`b``" and code("a|b") == "`a\\|b`" and code("") == "–"


def test_any_key_may_be_missing():
    seen = [comparison_markdown(less) for _, less in without_each_key(comparison(2, 1, 1))]
    assert len(seen) > 100 and all("None" not in text for text in seen)
    assert len({*map(len, seen)}) > 20
