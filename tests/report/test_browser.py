"""The pages in a browser: Debian's chromium, headless, opened from a file."""

import json
import shutil
from pathlib import Path

import pytest

from ptjax.report import comparison_page, leaderboard_page
from tests.report import test_comparison_page
from tests.report.boards import board
from tests.report.comparisons import comparison
from tests.report.test_leaderboard_page import HOSTILE

TEXTS = (Path(__file__).parent / "texts.js").read_text()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (the extra: test)")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("no browser is installed; on Debian and Ubuntu: apt install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, tmp_path):
    """opened(text, **context) -> a page, of which no request left and which complained of nothing."""
    contexts, requests, complaints = [], [], []

    def open_page(text, width=1280, **settings):
        file = tmp_path / "page.html"
        file.write_text(text, encoding="utf-8")
        context = browser.new_context(viewport={"width": width, "height": 900}, offline=True, **settings)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(120_000)  # machines are shared
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(file.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert contexts and complaints == []
    assert [url for url in requests if not url.startswith(("data:", "blob:"))] == [(tmp_path / "page.html").as_uri()]


def test_the_table_sorts_by_click_and_by_keyboard(opened):
    made = board(7, 4)
    page = opened(leaderboard_page(made))
    names = [s["name"] for s in made["submissions"]]
    shown = page.locator(".standings tbody .who > .name")
    assert shown.all_inner_texts() == names

    def ordered(task, sign):
        has = [s for s in made["submissions"] if task in s["tasks"]]
        lacks = [s["name"] for s in made["submissions"] if task not in s["tasks"]]
        return [s["name"] for s in sorted(has, key=lambda s: sign * s["tasks"][task]["mean"])] + lacks

    last = made["suite"]["tasks"][-1]["name"]
    heading = page.locator(".standings thead th", has_text=last)
    heading.locator("button").click()
    assert shown.all_inner_texts() == ordered(last, -1)
    assert heading.get_attribute("aria-sort") == "descending"
    heading.locator("button").click()
    assert shown.all_inner_texts() == ordered(last, 1)
    assert ordered(last, 1)[-1] == names[-1]  # the one that lacks it, last in both orders
    assert heading.get_attribute("aria-sort") == "ascending"
    assert page.locator('.standings [aria-sort="none"]').count() == 4 + 4 + 4 - 1

    page.locator(".standings thead button").first.focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # by name
    assert shown.all_inner_texts() == sorted(names)
    page.keyboard.press("Tab")
    page.keyboard.press("Space")  # by score
    assert shown.all_inner_texts() == names
    page.locator(".standings thead button", has_text="Time").click()
    seconds = {s["name"]: s["cost"]["seconds"] for s in made["submissions"]}
    assert shown.all_inner_texts() == sorted(names, key=seconds.get)


def test_a_difference_opens_and_the_numbers_can_be_saved(opened):
    made = board(3, 2)
    page = opened(leaderboard_page(made), accept_downloads=True)
    run = page.locator("#configs .run").nth(1)
    table = run.locator("table")
    assert not table.is_visible()
    run.locator("summary").first.focus()
    page.keyboard.press("Enter")
    assert table.is_visible()
    assert table.locator("tbody th").all_inner_texts() == [row[0] for row in made["submissions"][1]["difference"]]
    with page.expect_download() as download:
        page.get_by_role("button", name="Save the numbers").click()
    saved = json.loads(Path(download.value.path()).read_text())
    assert [s["name"] for s in saved["submissions"]] == [s["name"] for s in made["submissions"]]


def test_pointing_at_a_submission_picks_it_out(opened):
    page = opened(leaderboard_page(board(3, 2)))
    page.locator("#training .legend li").nth(1).hover()
    faded = page.evaluate(
        "[...document.querySelectorAll('#training g')].map(g => [g.dataset.s, getComputedStyle(g).opacity])"
    )
    assert {s: opacity for s, opacity in faded} == {"0": "0.18", "1": "1", "2": "0.18"}


@pytest.mark.parametrize("name", ["realistic", "strings", "thirty", "equal"])
def test_no_text_overflows_or_overlaps(opened, name):
    page = opened(leaderboard_page(board() if name == "realistic" else HOSTILE[name]()))
    stands_well(page)
    page.add_style_tag(content=".note { margin-bottom: -1.5rem }")
    assert page.evaluate(TEXTS)["problems"]


def stands_well(page):
    """No text leaves the window or stands on another, wide or narrow."""
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        seen = page.evaluate(TEXTS)
        assert seen["texts"] > 20
        assert seen["problems"] == []
        assert seen["width"] <= width


def test_it_reads_without_a_script_and_in_the_dark(opened):
    page = opened(leaderboard_page(board(3, 2)), java_script_enabled=False, color_scheme="dark")
    assert page.locator(".standings tbody tr").count() == 3
    assert page.locator("#training svg").first.is_visible()
    assert page.locator("#tasks .dot").first.is_visible()
    assert page.locator("#tasks .whisker").first.bounding_box()["width"] > 5
    dark = page.locator("body").evaluate("(body) => getComputedStyle(body).backgroundColor")
    assert dark == "rgb(20, 22, 25)"


def test_a_comparison_sorts_and_its_differences_can_be_seen(opened):
    made = comparison()
    page = opened(comparison_page(made))
    names = page.locator("#scores tbody .who > .name")
    assert names.all_inner_texts() == [arm["name"] for arm in made["arms"]]
    page.locator("#scores thead button", has_text="Score").click()
    ranked = sorted(made["arms"], key=lambda arm: -arm["score"]["mean"])
    assert names.all_inner_texts() == [arm["name"] for arm in ranked] != [arm["name"] for arm in made["arms"]]

    drawn = page.evaluate(
        """[...document.querySelectorAll("#differences .by-task tbody tr")].map((row) =>
          [...row.querySelectorAll("svg")].map((bar) => {
            const [around, line] = [bar, bar.firstElementChild].map((each) => each.getBoundingClientRect());
            const right = line.x + line.width / 2 - around.x - around.width / 2;
            return [right, getComputedStyle(bar.parentElement).fontWeight];
          }))"""
    )
    weights = set()
    for row, d in zip(drawn, made["differences"], strict=True):
        for (right, weight), task in zip(row, made["suite"]["tasks"], strict=True):
            t = d["tasks"][task["name"]]
            assert abs(t["mean"]) < 0.001 or (right > 0) == (t["mean"] > 0)  # to the right where the first is better
            assert (weight == "650") == (not t["low"] <= 0 <= t["high"])
            weights.add(weight)
    assert len(weights) == 2


@pytest.mark.parametrize("name", ["realistic", "strings", "incomplete"])
def test_no_text_of_a_comparison_overflows_or_overlaps(opened, name):
    made = comparison() if name == "realistic" else test_comparison_page.HOSTILE[name]()
    stands_well(opened(comparison_page(made)))


def test_a_comparison_reads_without_a_script_and_in_the_dark(opened):
    page = opened(comparison_page(comparison()), 400, java_script_enabled=False, color_scheme="dark")
    for part in ("#scores .mean", "#differences .whisker", "#curves svg", "#scaling .band", "#tasks .whisker"):
        assert page.locator(part).last.bounding_box()["width"] > 5, part
    assert page.evaluate("document.documentElement.scrollWidth") == 400
