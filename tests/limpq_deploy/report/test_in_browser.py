"""The pages in a real browser: the slider moves, the console is clean, nothing is requested, nothing sticks out.

Needs Playwright (the extra limpq-deploy[browser]) and an installed Chromium; skipped, with the reason, without them.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from limpq_deploy.report import ReportInputs, render_report
from limpq_deploy.report.comparison import render_comparison

from .test_comparison import build_of

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="needs the extra limpq-deploy[browser]")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser is installed here ({', '.join(BROWSERS)})")
    with api.sync_playwright() as play:
        found = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Opens a page; at the end nothing may have been said on its console, nor asked for."""
    said: list[str] = []
    asked: list[str] = []
    contexts = []

    def open_page(text: str, *, width: int = 1400, colours: str = "light", script: bool = True) -> Any:
        file = tmp_path / "page.html"
        file.write_text(text, encoding="utf-8")
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=colours,
            java_script_enabled=script,
            reduced_motion="reduce",
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert sum(url.startswith("file:") for url in asked) == len(contexts)


@pytest.fixture(scope="module")
def page(whole: ReportInputs) -> str:
    return render_report(whole)


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 400])
def test_the_slider_shows_each_point_with_its_bits_and_command(
    opened: Open, whole: ReportInputs, page: str, width: int, colours: str
) -> None:
    view = opened(page, width=width, colours=colours)
    assert whole.what_if is not None
    points = whole.what_if.points
    searched = [layer.name for layer in whole.placement.searched]
    for at in (0, len(points) // 2, len(points) - 1):
        view.locator("#budget").fill(str(at))
        shown = view.locator("#what-if details.point:visible")
        assert shown.count() == 1
        assert whole.commands[points[at].name] in shown.inner_text()
        preview = points[at].preview
        assert preview is not None
        assert f"{preview.value:.2f} %" in shown.inner_text()
        assert f"{preview.value:.2f} %" in view.locator("#what-if output").inner_text()
        assert view.locator("#what-if .mark.here").count() == 2  # in both pictures
        for tensor, part in (("w", "weight"), ("a", "act")):
            bars = view.locator(f"#what-if rect.bar-{tensor}:not(.pinned)")
            heights = [float(bars.nth(place).get_attribute("height")) for place in range(bars.count())]
            assert heights == [11.0 * getattr(points[at].bits[name], part) for name in searched]
    view.locator('#what-if .mark[data-at="1"] .shape').first.click()
    assert whole.commands[points[1].name] in view.locator("#what-if details.point:visible").inner_text()


def test_the_arrow_keys_move_the_slider(opened: Open, whole: ReportInputs, page: str) -> None:
    view = opened(page)
    assert whole.what_if is not None
    view.locator("#budget").fill("0")
    view.locator("#budget").focus()
    view.keyboard.press("ArrowRight")
    assert whole.commands[whole.what_if.points[1].name] in view.locator("#what-if details.point:visible").inner_text()


def test_without_a_script_every_point_can_be_opened_and_no_slider_stands_there(
    opened: Open, whole: ReportInputs, page: str
) -> None:
    view = opened(page, script=False)
    assert whole.what_if is not None
    assert not view.locator("#budget").is_visible()
    points = view.locator("#what-if details.point")
    assert points.count() == len(whole.what_if.points)
    last = points.last
    assert not last.locator("code").is_visible()
    last.locator("summary").click()
    assert last.locator("code").is_visible()


@pytest.mark.parametrize("width", [1400, 400])
def test_nothing_sticks_out_sideways(opened: Open, whole: ReportInputs, page: str, width: int) -> None:
    comparison = render_comparison([build_of(whole, "one"), build_of(whole, "two")])
    for text in (page, comparison):
        view = opened(text, width=width)
        view.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        assert view.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("width", [1400, 1180, 400])
def test_no_two_labels_of_a_rows_axis_overlap(opened: Open, page: str, width: int) -> None:
    overlapping = """() => [...document.querySelectorAll(".row.axis svg")].flatMap((axis) => {
        const boxes = [...axis.querySelectorAll(".tick")].map((one) => one.getBoundingClientRect());
        const seen = boxes.filter((box) => box.width > 0).sort((one, two) => one.left - two.left);
        return seen.slice(1).filter((box, place) => box.left < seen[place].right).map(() => axis.textContent);
    })"""
    view = opened(page, width=width)
    assert view.locator(".row.axis svg").count() >= 3
    assert view.evaluate(overlapping) == []


def test_wide_tables_are_shaded_where_they_scroll(opened: Open, page: str) -> None:
    view = opened(page, width=400)
    table = view.locator("#ship .wide, #accuracy .wide").first
    assert table.evaluate("one => one.scrollWidth > one.clientWidth")
    assert "gradient" in table.evaluate("one => getComputedStyle(one).backgroundImage")


def test_the_page_is_dark_for_who_prefers_that(opened: Open, page: str) -> None:
    def lightness(colours: str) -> int:
        view = opened(page, colours=colours)
        text = view.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(int(number) for number in text[4:-1].split(","))

    assert lightness("dark") < 150 < 600 < lightness("light")
