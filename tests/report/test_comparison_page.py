"""What the page says about a comparison, and that no comparison breaks it."""

import json
import math
import re

import pytest

from ptjax.report import comparison_page
from tests.report.comparisons import HASH, OTHER, comparison, incomplete
from tests.report.reading import Node, read_page
from tests.report.test_leaderboard_page import STRINGS, _replaced


def page_of(made) -> Node:
    return read_page(comparison_page(made))


def rows(page: Node, section: str, which: int = 0) -> list[list[str]]:
    body = page.section(section).all("table", "sortable")[which].one("tbody")
    return [[cell.text() for cell in row.children] for row in body.all("tr")]


def headings(page: Node, section: str, which: int = 0) -> list[str]:
    return [th.text() for th in page.section(section).all("table", "sortable")[which].one("thead").all("th")]


def verdict(made) -> str:
    return page_of(made).one("p", "summary").text()


def points(value: float, signed: bool = False) -> str:
    return f"{100 * value:{'+' if signed else ''}.1f}".replace("-", "−")


SECTIONS = [
    "Scores",
    "Differences",
    "Pairing proof",
    "Budget",
    "Curves",
    "Learning rates",
    "Scaling",
    "Tasks",
    "Cost",
    "Configs",
    "Failed",
    "How to read this",
]


def test_sections_come_in_their_order_below_the_question_and_the_verdict():
    made = comparison()
    page = page_of(made)
    assert [h.text() for h in page.all("h2")] == SECTIONS == [a.text() for a in page.one("nav").all("a")]
    assert page.one("h1").text() == "Comparison: objectives"
    summary = page.one("p", "summary")
    assert summary.text().startswith(f"{made['question']} causal leads mlm by ")
    d = made["differences"][0]
    around = f"{points(d['mean'])} points [{points(d['low'])}, {points(d['high'])}], p = 0.036 adjusted for 3 pairs"
    assert f"causal leads mlm by {around}" in summary.text()
    assert "causal-then-mlm-with-a-long-name and mlm cannot be told apart" in summary.text()
    assert "over 8 tasks; the intervals rest on 3 seeds an arm, which are few" in summary.text()
    assert {s.text() for s in summary.all("strong")} == {arm["name"] for arm in made["arms"]}


def test_verdicts_of_ties_of_doubts_and_of_what_is_not_there():
    made = comparison(2, tasks=2)
    (d,) = made["differences"]
    d |= {"a": "mlm", "b": "causal", "mean": -0.013, "low": -0.024, "high": -0.002, "p": 0.02, "p_holm": 0.02}
    d |= {"tie": False, "seeds": [5, 5]}
    assert "causal leads mlm by 1.3 points [0.2, 2.4], p = 0.020. Scores are" in verdict(made)
    assert "few" not in verdict(made)
    d |= {"tie": True, "low": -0.03, "high": 0.004, "p": 0.21}
    assert "causal and mlm cannot be told apart: 1.3 points [−0.4, 3.0], p = 0.210 between" in verdict(made)
    d["seeds"] = [1, 1]
    assert "one seed an arm: nothing here says what another seed would change" in verdict(made)

    made = comparison(4)
    for d in made["differences"]:
        d["tie"] = True
    assert "No two arms can be told apart, the widest gap being causal over " in verdict(made)
    made["differences"][0] |= {"tie": False, "p": 0.04, "p_holm": 0.24}
    assert "causal is ahead of mlm by " in verdict(made) and " leads " not in verdict(made)
    assert ", p = 0.040, but not after adjusting for 6 pairs; 5 pairs cannot be told apart" in verdict(made)
    made["differences"][1] |= {"tie": False, "p": 0.001, "p_holm": 0.006, "mean": 0.02, "low": 0.01, "high": 0.03}
    made["differences"][2] |= {"tie": False, "p": 0.002, "p_holm": 0.01, "mean": 0.01, "low": 0.005, "high": 0.015}
    said = verdict(made)
    assert "causal leads causal-then-mlm-with-a-long-name by 2.0 points [1.0, 3.0], p = 0.006 adjusted for 6" in said
    assert ", and hybrid by 1.0 points [0.5, 1.5], p = 0.010 adjusted; causal is ahead of mlm by " in said
    told = [row[4] for row in rows(page_of(made), "differences")]
    assert told == ["before adjusting", "yes", "yes", "no", "no", "no"]
    bold = [bool(row.all("td", "apart")) for row in page_of(made).section("differences").all("tbody")[0].all("tr")]
    assert bold == [False, True, True, False, False, False]

    assert "It is the only arm" in verdict(comparison(1))
    assert verdict(incomplete()).endswith("Incomplete: still to be done are 2 pre-trainings and 14 fine-tunings.")
    assert "no difference is known yet" in verdict(incomplete())
    assert verdict({}) == "There are no arms to compare."


def test_without_a_suite_the_verdict_is_of_validation_question_by_question():
    made = comparison(3, tasks=0)
    (d,) = made["pretraining_differences"]
    d |= {"mean": -0.25, "low": -0.4, "high": -0.1}  # lower is better: the first leads
    around = "0.250 bits a byte [0.100, 0.400], p = 0.004"
    said = verdict(made)
    assert f"In validation by MLM(rate=0.15), where lower is better: mlm leads {d['b']} by {around}. " in said
    assert "No other arm was asked what causal was." in said and "on 3 seeds an arm, which are few" in said
    d |= {"mean": 0.1, "low": 0.06, "high": 0.14}
    assert f"{d['b']} leads mlm by 0.100 bits a byte [" in verdict(made)
    assert "bits a byte [" not in verdict(comparison(3))  # there are scores

    made["pretraining_differences"] = []
    said = verdict(made)
    assert "values of unlike ones do not compare" in said
    assert "Bits a byte by CausalLM: causal has 1." in said and "Bits a byte by MLM(rate=0.15): mlm has 1." in said


def test_fewer_seeds_than_planned_are_said():
    made = comparison()
    assert "Fewer seeds" not in verdict(made)
    made["arms"][1]["score"]["seeds"] = made["arms"][1]["score"]["seeds"][:2]
    assert "Fewer seeds than planned: mlm has 2 of 3 seeds." in verdict(made)
    lacking = [row[0].endswith("2 of 3 seeds") for row in rows(page_of(made), "scores")]
    assert lacking == [False, True, False]


def test_bars_end_at_0_and_100_and_words_do_not():
    made = comparison(2, tasks=2)
    made["arms"][0]["score"] |= {"mean": 0.97, "low": 0.9, "high": 1.2}
    made["arms"][1]["score"] |= {"mean": 0.95, "low": -0.4, "high": 1.1}
    page = page_of(made)
    assert [row[1] for row in rows(page, "scores")] == ["97.090.0 to 120.0", "95.0−40.0 to 110.0"]
    whiskers = [svg.one("line", "whisker").attributes for svg in page.section("scores").all("svg", "track")]
    assert [(w["x1"], w["x2"]) for w in whiskers] == [("90%", "100%"), ("0%", "100%")]  # of an axis from 0 to 100
    for arm in made["arms"]:
        arm["tasks"]["sst2"] |= {"mean": 0.98, "low": 0.9, "high": 1.4}
    labels = [t.text() for t in page_of(made).section("tasks").all("svg", "axis")[0].all("text")]
    assert float(labels[-1]) == 100


def test_scores_say_what_the_comparison_says():
    made = comparison()
    page = page_of(made)
    names = [task["name"] for task in made["suite"]["tasks"]]
    asked = ["bits a byte, CausalLM", "bits a byte, MLM(rate=0.15)"]
    assert headings(page, "scores") == ["Arm", "Score", *names, *asked]
    for row, arm in zip(rows(page, "scores"), made["arms"], strict=True):
        score, bits = arm["score"], arm["pretraining"]
        assert row[0].startswith(f"{arm['name']}{arm['objective']}")
        assert row[1] == f"{points(score['mean'])}{points(score['low'])} to {points(score['high'])}"
        said = f"{bits['mean']:.3f}{bits['low']:.3f} to {bits['high']:.3f}"
        assert row[-2:] == ([said, "–"] if arm["name"] == "causal" else ["–", said])
        assert [cell.split("±")[0] for cell in row[2:-2]] == [points(arm["tasks"][name]["mean"]) for name in names]
    assert "values of unlike questions do not compare" in page.section("scores").text()
    # What one chart has is one question; an arm that no chart has is alone, whatever its objective is called.
    made["curves"] = [made["curves"][1] | {"lines": made["curves"][1]["lines"][:3]}]
    page = page_of(made)
    alone = ["bits a byte, CausalLM", "bits a byte, MLM(rate=0.15)"]
    assert headings(page, "scores")[-3:] == ["bits a byte, MLM(rate=0.15)", *alone]
    assert [[cell == "–" for cell in row[-3:]] for row in rows(page, "scores")] == [[1, 0, 1], [0, 1, 1], [1, 1, 0]]


def test_differences_are_of_every_pair_with_their_place_around_zero():
    made = comparison()
    page = page_of(made)
    found = rows(page, "differences")
    for row, d in zip(found, made["differences"], strict=True):
        assert row[0] == f"{d['a']}− {d['b']}"
        assert row[1] == f"{points(d['mean'], True)}{points(d['low'])} to {points(d['high'])}"
        assert row[2:] == [f"{d['p']:.3f}", f"{d['p_holm']:.3f}", "no" if d["tie"] else "yes", "seed by seed", "3"]
    assert {row[4] for row in found} == {"yes", "no"}
    tracks = page.section("differences").all("table")[0].all("svg", "track")
    for track, d in zip(tracks, made["differences"], strict=True):
        low, high = (float(track.one("line", "whisker").attributes[k].rstrip("%")) for k in ("x1", "x2"))
        assert (low <= 50 <= high) == d["tie"] and low < high
        ratio = (d["mean"] - d["low"]) / (d["high"] - d["low"])
        at = float(track.one("circle", "dot").attributes["cx"].rstrip("%"))
        assert (at - low) / (high - low) == pytest.approx(ratio, abs=0.02)
    for row, d in zip(rows(page, "differences", 1), made["differences"], strict=True):
        assert row[1:] == [points(d["tasks"][t["name"]]["mean"], True) for t in made["suite"]["tasks"]]
    made["differences"][0] |= {"paired": False, "seeds": [3, 2]}
    assert rows(page_of(made), "differences")[0][5:] == ["unpaired seeds", "3 and 2"]


def test_differences_of_validation_have_a_table_a_question_in_the_unit_of_its_metric():
    made = comparison(6)
    for d in made["pretraining_differences"]:
        d["question"] = "MLM, short rows" if d["a"] == "mlm" else d["question"]
    tables = page_of(made).section("differences").all("table")
    assert len(tables) == 2 + len({d["question"] for d in made["pretraining_differences"]}) == 5
    causal = [d for d in made["pretraining_differences"] if d["question"] == "CausalLM"]
    (found,) = [t for t in tables if t.one("caption").text() == "Differences in validation by CausalLM"]
    (row,), (d,) = found.one("tbody").all("tr"), causal
    cells = [cell.text() for cell in row.children]
    said = [f"{d[k]:+.3f}".replace("-", "−") for k in ("mean", "low", "high")]
    assert cells[1] == f"{said[0]}{said[1]} to {said[2].lstrip('+')}"
    assert cells[2:] == ["0.004", "0.008", "yes", "seed by seed", "3"]
    section = page_of(made).section("differences").text()
    assert "Validation by CausalLM: bits a byte, lower is better." in section
    assert "Bars to the left of the line are in favour of the first" in section


def test_the_proof_names_what_differs_and_by_which_arms():
    made = comparison()
    page = page_of(made)
    found = rows(page, "pairing")
    assert [row[0] for row in found] == [item["what"] for item in made["pairing"]["items"]]
    batches, body = found[2], found[3]
    assert batches[1] == "✓ the same in all" and batches[3] == f"{HASH[:12]} all 3 arms" and "1,172" in batches[4]
    assert body[1] == "≠ differs, as declared" and "model.width" in body[2]
    assert body[3] == f"{HASH[:12]} causal{OTHER[:12]} mlmcausal-then-mlm-with-a-long-name"
    assert "Proven" in page.section("pairing").text() and "not recorded" in page.section("pairing").text()
    made["pairing"]["proven"] = False
    assert "Not proven" in page_of(made).section("pairing").text()


def test_the_budget_marks_what_is_matched_and_says_why_the_rest_is_not_equal():
    made = comparison(match="flops")
    made["arms"][1]["share"] = 4.0
    page = page_of(made)
    columns = headings(page, "budget")
    totals = ["Tokens", "Predictions", "= FLOPs", "Seconds"]
    assert columns == ["A run", "Multiple", "Steps", *totals, "Parameters"]
    causal, mlm, branch = rows(page, "budget")
    assert causal[1:] == ["× 1", "1,172", "1.20 M", "1.19 M", "2.10 T", "2 min 11 s", "1.1 M"]
    assert mlm[1] == "× 4" and "after causal from step 586, 50 % of the amount" in branch[0]
    marked = [cell.text() for cell in page.section("budget").all("td", "is-matched")]
    assert marked == [causal[5], mlm[5], branch[5]]
    of_step = ["MLM(rate=0.15)", "1,024", "155", "15.1", "mlm 155", "1.83 G", "1.96 G", "0.120"]
    assert rows(page, "budget", 1)[1][1:] == of_step
    words = page.section("budget").text()
    assert "Predictions a hundred tokens: causal 99.2, mlm 15.1" in words and "the optimizer's are not counted" in words
    assert "tokens predicted" not in page.text() and "predicted tokens" not in page.text()


def test_losses_of_two_questions_never_share_a_chart():
    made = comparison(4)
    page = page_of(made)
    panels = page.section("curves").all("article")
    assert [p.one("h3").text() for p in panels] == ["CausalLM", "MLM(rate=0.15)", "Hybrid"]
    drawn = [{g.attributes["data-s"] for g in panel.one("svg", "chart").all("g")} for panel in panels]
    assert drawn == [{"0"}, {"1", "2"}, {"3"}]
    for panel in panels:
        assert "bits a byte over tokens" in panel.text()
        assert all(g.one("path").attributes["d"].count("M") == 3 for g in panel.all("g"))  # a line a seed
    # No other chart has losses of more than one arm either, but for the fits, whose arms share a question.
    for panel in page.section("learning-rates").all("article"):
        assert len(panel.all("g")) == 1 or "mean of the trained tasks on validation" in panel.text()
    assert "would compare nothing" in page.section("curves").text()


def test_learning_rates_ring_the_selected_one_and_warn_at_the_edge():
    made = comparison()
    section = page_of(made).section("learning-rates")
    *losses, scores = section.all("article")
    assert [p.one("h3").text() for p in losses] == [arm["name"] for arm in made["arms"]]
    ticks = {t.text(): t.attributes["x"] for t in scores.all("text")}
    rings = [g.one("circle", "ring").attributes["cx"] for p in losses for g in p.all("g")]
    assert rings == [ticks["×1"], ticks["×1"], ticks["×2"]]
    (warning,) = section.all("p", "warning")
    assert "causal-then-mlm-with-a-long-name" in warning.text() and "1e−2" in warning.text()
    assert "is also the first of those that are scored" in section.text()
    assert "causal-then-mlm-with-a-long-name goes on from another arm: multiples apply from where it" in section.text()
    for arm in made["arms"]:
        arm["rate"]["grid"] = arm["rate"]["grid"][:1]
        arm["rate"]["edge"] = False
    section = page_of(made).section("learning-rates")
    assert not section.all("svg") and "causal 5e−3, mlm 5e−3" in section.text()
    assert "no arm was tuned" in section.text() and "first seed" not in section.text()


def test_scaling_has_its_points_its_line_and_its_slope():
    made = comparison()
    made["scaling"][1]["points"] = [p for p in made["scaling"][1]["points"] if p["arm"] != "causal"]  # asked otherwise
    page = page_of(made)
    score, bits = page.section("scaling").all("article")
    assert len(score.all("path", "band")) == 1 and len(bits.all("g")) == 2 + 1
    dots = [p for g in score.all("g") for p in g.all("path", "dots")]
    assert sum(p.attributes["d"].count("M") for p in dots) == 9
    assert [row[:5] for row in rows(page, "scaling")] == [
        ["sizes", "score", "+3.02.0 to 4.0", "< 0.001", "3"],
        ["sizes", "bits a byte, MLM(rate=0.15)", "−0.210−0.220 to −0.200", "< 0.001", "3"],
    ]
    made["scaling"][0] |= dict.fromkeys(("form", "slope", "low", "high", "p", "r2", "sizes")) | {
        "band": []
    }  # too few sizes
    page = page_of(made)
    assert rows(page, "scaling")[0][2:] == ["–"] * 5 and len(page.section("scaling").all("article")) == 2


def test_words_that_a_newcomer_lacks_are_defined():
    made = comparison(2)
    terms = {d.one("dt").text(): d.one("dd").text() for d in page_of(made).section("method").one("dl").all("div")}
    assert {"Amount", "Headline metric", "Told apart", "Declared", "By seed", "Bits a byte"} <= {*terms}
    assert "span_f1 of conll2000" in terms["Headline metric"] and "1.20 M tokens" in terms["Amount"]
    assert "once one seed has all tasks; seeds that lack one are left out" in terms["Score"]
    assert "nothing that is recorded" in terms["Pairing proof"] and "nor is the code of" in terms["Pairing proof"]
    assert "pseudo-likelihood" in terms["Minimal pairs"] and "other fine-tuning seeds" in terms["Interval"]
    made["suite"]["tasks"] = [task for task in made["suite"]["tasks"] if task["kind"] != "MinimalPairs"]
    assert "Minimal pairs" not in page_of(made).section("method").text()


def test_costs_configs_and_failures():
    made = comparison()
    page = page_of(made)
    assert rows(page, "cost")[0][1:] == ["5", "10.5 T", "4.4 T", "11 min 42 s", "21 min 51 s", "33 min 33 s"]
    assert "15 pre-trainings" in page.section("cost").text()
    runs = page.section("configs").all("details", "run")
    for run, arm in zip(runs, made["arms"], strict=True):
        lines = [[c.text() for c in row.children] for t in run.all("tbody") for row in t.all("tr")]
        assert lines == arm["difference"]
        assert {d.one("dt").text(): d.one("dd").text() for d in run.one("dl").all("div")} == arm["config"]
    (failed,) = page.section("failed").all("details")
    assert failed.one("pre").text() == made["failed"][0]["error"] and "rate2-seed0" in failed.one("summary").text()


def test_the_page_holds_its_numbers_and_stays_small():
    made = comparison()
    text = comparison_page(made)
    assert len(text.encode()) < 150_000
    (script,) = [s for s in read_page(text).all("script") if s.attributes.get("id") == "data"]
    data = json.loads(script.text())
    assert [d["p"] for d in data["differences"]] == [d["p"] for d in made["differences"]]
    assert "curves" not in data and data["arms"][0]["score"]["mean"] == pytest.approx(
        made["arms"][0]["score"]["mean"], rel=1e-5
    )


def _strings() -> dict:
    made = _renamed(comparison(4, 3, 3), iter(STRINGS * 10_000))
    for arm, name in zip(made["arms"], STRINGS):
        arm["name"] = name
    return made


def _renamed(value, names):
    """Every text, and every name of a task, replaced by a hostile one."""
    if isinstance(value, dict):
        keep = {"arms", "tasks", "config", "terms", "budget"}
        return {
            (f"{next(names)}{k}" if k not in keep and "." in k else k): _renamed(v, names) for k, v in value.items()
        }
    if isinstance(value, list):
        return [_renamed(v, names) for v in value]
    return next(names) if isinstance(value, str) else value


def _others_arms() -> dict:
    """Pairs, curves and proofs of arms that are not there."""
    made = comparison(3, 2, 2)
    made["arms"] = made["arms"][:1]
    return made


HOSTILE = {
    "empty": dict,
    "nothing": lambda: None,
    "a list": list,
    "incomplete": incomplete,
    "one": lambda: comparison(1),
    "one seed": lambda: comparison(2, 1, 2),
    "no suite": lambda: comparison(3, 3, 0),
    "ten": lambda: comparison(10, 2, 3),
    "others' arms": _others_arms,
    "strings": _strings,
    "nan": lambda: _replaced(comparison(2, 2, 2), math.nan),
    "huge": lambda: _replaced(comparison(2, 2, 2), 10**400),
    "infinity": lambda: _replaced(comparison(2, 2, 2), -math.inf),
    "negative": lambda: _replaced(comparison(2, 2, 2), -1.5),
    "zero": lambda: _replaced(comparison(2, 2, 2), 0),
    "none": lambda: _replaced(comparison(2, 2, 2), None),
    "text": lambda: _replaced(comparison(2, 2, 2), "x"),
    "lists": lambda: _replaced(comparison(2, 2, 2), [[]]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_comparison_breaks_the_page(name):
    text = comparison_page(HOSTILE[name]())
    text.encode()
    _is_sound(text)


def _is_sound(text: str) -> None:
    page = read_page(text)
    tags = {node.tag for node in page.all()}
    assert not tags & {"img", "iframe", "object", "embed", "form", "base"}, tags
    assert len(page.all("script")) == 2 and page.one("h1").text()
    for node in page.all():
        assert not any(key.startswith("on") for key in node.attributes), node.attributes
        link = node.attributes.get("href") or "#"
        assert link.startswith("#") or link == "data:,", link
        assert not {"src", "style", "action"} & set(node.attributes)
    names = [node.attributes["id"] for node in page.all() if "id" in node.attributes]
    assert len(names) == len(set(names))
    assert all(link.attributes["href"][1:] in names for link in page.all("a"))
    assert not re.search(r"https?://|url\(|@import|fetch\(|XMLHttp|localStorage|cookie", text)
    shapes = [v for n in page.all() if n.tag in ("path", "line", "circle", "text") for v in n.attributes.values()]
    assert not any(re.search("nan|inf", v or "") for v in shapes)
    for table in page.all("table", "sortable"):
        assert {len(row.children) for row in table.one("tbody").all("tr")} <= {len(table.one("thead").all("th"))}


def without_each_key(value, most: int = 4):
    """The same value once for each key that is in it anywhere, without that key."""

    def keys(value, depth=0):
        if isinstance(value, dict) and depth < most:
            yield from value
            for item in value.values():
                yield from keys(item, depth + 1)
        elif isinstance(value, list):
            for item in value:
                yield from keys(item, depth)

    def without(value, key):
        if isinstance(value, dict):
            return {k: without(v, key) for k, v in value.items() if k != key}
        return [without(v, key) for v in value] if isinstance(value, list) else value

    for key in dict.fromkeys(keys(value)):
        yield key, without(value, key)


def test_any_key_may_be_missing():
    made = comparison(2, 1, 1)
    for holder in (made, *made["arms"]):
        holder |= {"config": {}, "base": {}, "failed": []}
    seen = 0
    for key, less in without_each_key(made):
        text = comparison_page(less)
        assert text.endswith("</html>\n") and not re.search(r">None|None<|\bnan\b", text), key
        seen += 1
    assert seen > 80
