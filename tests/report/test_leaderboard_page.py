"""What the page says about a board, and that no board breaks it."""

import json
import math
import re

import pytest

from ptjax.report import leaderboard_page
from ptjax.report.figures import count, duration, points, probability, rate
from ptjax.report.scale import Scale
from ptjax.report.svg import thin
from tests.report.boards import board
from tests.report.reading import Node, read_page


def rows(page: Node, section: str = "standings") -> list[list[str]]:
    body = page.section(section).one("table", "sortable").one("tbody")
    return [[cell.text() for cell in row.children] for row in body.all("tr")]


def test_standings_say_what_the_board_says():
    made = board()
    page = read_page(leaderboard_page(made))
    table = rows(page)
    first, last = made["submissions"][0], made["submissions"][-1]
    assert [row[0] for row in table] == ["1=", "1=", "3", "4", "5", "–"]
    assert [row[1] for row in table][:-1] == [s["name"] for s in made["submissions"]][:-1]
    assert table[-1][1] == f"{last['name']}incomplete: no xquad-en"
    assert table[0][2] == f"{first['score']['mean'] * 100:.1f}" + (
        f"{first['score']['low'] * 100:.1f} to {first['score']['high'] * 100:.1f}"
    )
    assert ["inside the noise" in row[3] for row in table] == [True, False, False, False, False, False]
    result = first["tasks"]["sst2"]
    assert table[0][4] == f"{result['mean'] * 100:.1f}± {result['spread'] * 100:.1f}"
    assert table[-1][2] == table[-1][9] == "–"
    assert table[0][10:] == ["22.7 M", "3.1 P", "41.2 M", "1 h 26 min"]
    summary = page.one("p", "summary").text()
    assert "tie for the lead" in summary and "over 6 tasks" in summary and "inside the noise" in summary
    assert [s["name"] for s in made["submissions"][:2]] == [s.text() for s in page.one("p", "summary").all("strong")]


def test_lacking_runs_are_told():
    made = board(3, 2, incomplete=False)
    made["submissions"][2] |= {"complete": False, "score": None}
    made["submissions"][2]["tasks"]["trec"]["runs"] = [2, 3]
    last = rows(read_page(leaderboard_page(made)))[2]
    assert last[1].endswith("incomplete: 2 of 3 seeds of trec") and last[5].endswith("2 of 3 seeds")


def test_a_lead_outside_the_noise_is_no_tie():
    made = board(4, 3, incomplete=False)
    made["submissions"][0]["versus_next"] |= {"tie": False, "p": 0.02, "low": 0.001, "high": 0.009, "difference": 0.005}
    made["submissions"][1]["rank"] = 2
    page = read_page(leaderboard_page(made))
    summary = page.one("p", "summary").text()
    assert " leads with " in summary and "+" not in rows(page)[0][0]
    assert f"0.5 [0.1, 0.9] ahead of {made['submissions'][1]['name']}" in summary
    assert rows(page)[0][3] == "+0.5p = 0.020"
    assert "inside the noise" not in summary + "".join(cell for row in rows(page) for cell in row)


def test_whiskers_and_dots_lie_where_the_axis_says():
    made = board()
    page = read_page(leaderboard_page(made))
    panels = page.section("tasks").all("article")
    assert [p.one("h3").text() for p in panels] == [t["name"] for t in made["suite"]["tasks"]]
    for panel in panels:
        *lines, axis = panel.all("li")
        ticks = [(float(t.attributes["x"].rstrip("%")), float(t.text())) for t in axis.all("text")]
        (x0, v0), (x1, v1) = ticks[0], ticks[-1]

        def place(value):
            return x0 + (100 * value - v0) / (v1 - v0) * (x1 - x0)

        for line in lines:
            (s,) = [s for s in made["submissions"] if s["name"] == line.one("span", "name").text()]
            result = s["tasks"][panel.one("h3").text()]
            whisker = line.one("line", "whisker").attributes
            found = [whisker["x1"], whisker["x2"], line.one("circle", "dot").attributes["cx"]]
            found += [seed.attributes["cx"] for seed in line.all("circle", "seed")]
            wanted = [result["low"], result["high"], result["mean"], *result["seeds"]]
            assert [float(x.rstrip("%")) for x in found] == pytest.approx([place(v) for v in wanted], abs=0.06)
        assert len(lines) == sum(panel.one("h3").text() in s["tasks"] for s in made["submissions"])


def test_curves_are_of_the_selected_rate_and_colours_hold_everywhere():
    made = board(3, 2, seeds=2, incomplete=False)
    for s in made["submissions"]:
        for result in s["tasks"].values():
            for curve in result["curves"]:
                if curve["learning_rate"] != result["learning_rate"]:
                    curve["loss"] = [[1, 1e6], [2, 1e6]]  # would stretch the axis
    page = read_page(leaderboard_page(made))
    charts = page.section("training").all("svg", "chart")
    assert len(charts) == 2 * 2
    for chart in charts:
        assert sorted(g.attributes["data-s"] for g in chart.all("g")) == ["0", "1", "2"]
        assert all(g.one("path").attributes["d"].count("M") == 2 for g in chart.all("g"))  # a line a seed
        assert all(f"c{g.attributes['data-s']}" in g.classes for g in chart.all("g"))
        assert not any(text.text().endswith("M") for text in chart.all("text"))
    rates = page.section("learning-rates").all("svg", "chart")
    assert [t.text() for t in rates[0].all("text")][-3:] == ["1e−5", "3e−5", "1e−4"]
    assert all(
        g.one("circle", "ring").attributes["cx"] == rates[0].all("text")[-2].attributes["x"] for g in rates[0].all("g")
    )


def test_losses_of_different_objectives_do_not_share_a_chart():
    page = read_page(leaderboard_page(board()))
    panels = page.section("pre-training").all("article")
    assert [p.one("h3").text() for p in panels] == ["MLM", "Hybrid", "RTD", "CausalLM"]
    assert all(len(p.one("svg", "chart").all("g")) == 1 for p in panels)


def test_configs_and_their_differences():
    made = board()
    page = read_page(leaderboard_page(made))
    runs = page.section("configs").all("details", "run")
    assert len(runs) == 6 and not runs[0].all("table")
    for run, s in zip(runs, made["submissions"]):
        lines = [[c.text() for c in row.children] for t in run.all("tbody") for row in t.all("tr")]
        assert lines == s["difference"]
        assert {d.one("dt").text(): d.one("dd").text() for d in run.one("dl").all("div")} == s["config"]
    assert any(s["difference"] for s in made["submissions"])


def test_failed_cells_are_listed():
    made = board()
    runs = read_page(leaderboard_page(made)).section("failed").all("details")
    assert [run.one("pre").text() for run in runs] == [f["error"] for f in made["failed"]]
    assert "lr1e-04-seed0" in runs[0].one("summary").text() and "loss is nan" in runs[0].one("summary").text()


def test_the_page_holds_its_numbers():
    made = board()
    (script,) = [s for s in read_page(leaderboard_page(made)).all("script") if s.attributes.get("id") == "data"]
    data = json.loads(script.text())
    for told, s in zip(data["submissions"], made["submissions"], strict=True):
        assert (told["name"], told["rank"], told["missing"]) == (s["name"], s["rank"], s["missing"])
        assert told["tasks"]["sst2"]["mean"] == pytest.approx(s["tasks"]["sst2"]["mean"], rel=1e-5)
        assert "curves" not in told["tasks"]["sst2"]


def test_ten_submissions_on_ten_tasks_stay_small():
    assert len(leaderboard_page(board(10, 10)).encode()) < 300_000


STRINGS = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "\"><img src=x onerror=alert(1)>'&amp;",
    "n" * 60,
    "名前 \U0001f9ea \u202eabc",
    "half a pair \ud83e and \x00 \x1b[31m",
    "",
]


def _strings() -> dict:
    made = board(len(STRINGS), 3)
    for s, name in zip(made["submissions"], STRINGS):
        s["name"], s["config"], s["difference"] = name, {name: name}, [[name, name, name]]
        s["tasks"] = {STRINGS[k] + "task": result for k, result in enumerate(s["tasks"].values())}
    for k, task in enumerate(made["suite"]["tasks"]):
        task["name"], task["metric"], task["kind"] = STRINGS[k] + "task", STRINGS[k], STRINGS[k]
    made["failed"] = [{"submission": s, "task": s, "cell": s, "error": s} for s in STRINGS]
    made["made"] = dict.fromkeys(("ptjax", "date", "python", "jax"), STRINGS[0])
    return made


def _keys_missing() -> dict:
    made = board(4, 3)
    for s, key in zip(made["submissions"], ("score", "tasks", "rank", "cost")):
        del s[key]
    for task in made["suite"]["tasks"]:
        del task["metric"], task["examples"]
    return made


def _all_failed() -> dict:
    made = board(3, 2)
    for s in made["submissions"]:
        s |= {"complete": False, "missing": list(s["tasks"]), "score": None, "tasks": {}, "versus_next": None}
    return made


def _equal() -> dict:
    made = board(3, 2, incomplete=False)
    for s in made["submissions"]:
        for result in s["tasks"].values():
            result |= {"mean": 0.0, "low": 0.0, "high": 0.0, "seeds": [0.0, 0.0]}
            result["grid"] = [[0.0, 0, 0.0], [1e-3, 0, 0.0]]
            result["curves"] = [{"learning_rate": 3e-5, "seed": 0, "loss": [[0, 0.0]], "validation": [[5, 1e90]]}]
    return made


def _replaced(value, new):
    """Every number replaced."""
    if isinstance(value, dict):
        return {k: _replaced(v, new) for k, v in value.items()}
    if isinstance(value, list):
        return [_replaced(v, new) for v in value]
    return value if isinstance(value, (str, bool)) else new


HOSTILE = {
    "empty": lambda: {},
    "nothing": lambda: None,
    "a list": lambda: [],
    "no submissions": lambda: board(0, 3),
    "no tasks": lambda: board(2, 0),
    "one": lambda: board(1, 1),
    "one task": lambda: board(3, 1),
    "one seed": lambda: board(4, 3, seeds=1),
    "thirty": lambda: board(30, 3),
    "strings": _strings,
    "nan": lambda: _replaced(board(3, 3), math.nan),
    "huge": lambda: _replaced(board(3, 3), 10**400),
    "infinity": lambda: _replaced(board(3, 3), -math.inf),
    "none": lambda: _replaced(board(3, 3), None),
    "text": lambda: _replaced(board(3, 3), "x"),
    "lists": lambda: _replaced(board(3, 3), [[]]),
    "keys missing": _keys_missing,
    "all failed": _all_failed,
    "equal": _equal,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_board_breaks_the_page(name):
    text = leaderboard_page(HOSTILE[name]())
    text.encode()
    page = read_page(text)
    tags = {node.tag for node in page.all()}
    assert not tags & {"img", "iframe", "object", "embed", "form", "base"}, tags
    assert len(page.all("script")) == 2 and page.one("h1").text()
    for node in page.all():
        assert not any(key.startswith("on") for key in node.attributes), node.attributes
        for key in ("href", "src", "action", "srcset", "xlink:href", "style"):
            link = node.attributes.get(key) or "#"
            assert link.startswith("#") or link == "data:,", link
    names = [node.attributes["id"] for node in page.all() if "id" in node.attributes]
    assert len(names) == len(set(names))
    assert all(link.attributes["href"][1:] in names for link in page.all("a"))
    assert not re.search(r"https?://|url\(|@import|fetch\(|XMLHttp|localStorage|cookie", text)
    shapes = [v for n in page.all() if n.tag in ("path", "line", "circle", "text") for v in n.attributes.values()]
    assert not any(re.search("nan|inf", v or "") for v in shapes)
    for table in page.all("table", "sortable"):
        assert {len(row.children) for row in table.one("tbody").all("tr")} <= {len(table.one("thead").all("th"))}
    if name == "strings":
        assert [s[:60] for s in STRINGS[:4]] == [row[1][:60].split("incomplete")[0] for row in rows(page)[:4]]


def test_the_summary_of_boards_that_rank_nobody():
    def summary(made):
        return read_page(leaderboard_page(made)).one("p", "summary").text()

    assert summary(_all_failed()) == "No submission has a result on all of 2 tasks, so none is ranked."
    assert summary(board(0, 3)) == "No submissions yet, on 3 tasks."
    assert summary(board(1, 1)).endswith("on average over 1 task. It is the only submission.")


def test_figures():
    assert [points(v) for v in (0.84372, 1, -0.0001, -0.5, None, math.nan)] == [
        "84.4",
        "100.0",
        "0.0",
        "−50.0",
        "–",
        "–",
    ]
    assert [points(v, signed=True) for v in (0.012, -0.012)] == ["+1.2", "−1.2"]
    assert [count(v) for v in (0, 999, 999_950, 22_713_216, 3.1e15, True)] == [
        "0",
        "999",
        "1.0\u00a0M",
        "22.7\u00a0M",
        "3.1\u00a0P",
        "–",
    ]
    said = [duration(v).replace("\u00a0", " ") for v in (0.4, 59.7, 75, 7384, 90_000)]
    assert said == ["0.4 s", "1 min 0 s", "1 min 15 s", "2 h 3 min", "1 d 1 h"]
    assert [rate(v) for v in (3e-5, 0.00025, 1, 0)] == ["3e−5", "2.5e−4", "1e0", "0"]
    assert [probability(v).replace("\u00a0", " ") for v in (0.0312, 1e-9, None)] == ["p = 0.031", "p < 0.001", ""]


@pytest.mark.parametrize(
    "values", [[0.2, 83.1], [5.0], [-1e-9, 1e-9], [0, 1500], [1e90, -1e90], [99.7, 100], [0.0], []]
)
def test_axes_hold_their_values_between_round_numbers(values):
    scale = Scale.around(values)
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 8 and len({label for _, label in ticks}) == len(ticks)
    assert [at for at, _ in ticks] == pytest.approx([k / (len(ticks) - 1) for k in range(len(ticks))])
    for value in values:
        slack = 1e-6 * scale.step
        assert scale.low - slack <= value <= scale.high + slack


def test_axes_of_points_end_at_a_hundred_and_are_not_zoomed_into():
    assert [label for _, label in Scale.around([100.0], least=5.0, limit=100.0).ticks()][-1] == "100"
    assert Scale.around([100.0, 99.99], least=5.0, limit=100.0).low <= 95
    assert len({label for _, label in Scale.around([2.000, 2.001]).ticks()}) > 2


def test_thinning_keeps_means():
    points_given = [[k, float(k % 2)] for k in range(1000)]
    thinned = thin(points_given, 10)
    assert len(thinned) == 10 and all(value == 0.5 for _, value in thinned)
    assert thin([[1, math.nan], [2, 3], None, [4]], 10) == [(2.0, 3.0)]
