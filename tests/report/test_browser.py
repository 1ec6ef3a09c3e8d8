"""The page in a headless browser: what a reader sees and moves. Screenshots go to ``build/screenshots``."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deblur_deploy.report.content import gather
from deblur_deploy.report.write import write_report
from tests.report.conftest import Photographs, Run

playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt install chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One headless Chromium for all tests."""
    with playwright.sync_playwright() as driver:
        # Without its sandbox, which a container has no rights for; it opens nothing but the tests' own page.
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=120_000)
        yield opened
        opened.close()


@pytest.fixture
def page_file(whole_run: Run, photographs: Photographs) -> Path:
    """A report with two photographs."""
    content = dataclasses.replace(
        gather(whole_run.folder), photographs=photographs("<b>first.png", "second.png"), photographs_absent=""
    )
    return write_report(content, whole_run.folder / "report.html", "html")[0]


@dataclasses.dataclass
class Visit:
    """An open page and everything that it complained of or asked for."""

    page: Any
    complaints: list[str]

    def frame(self) -> dict[str, float]:
        """Where the picture that is shown is on the screen."""
        frame = self.page.locator(".compare:visible .frame")
        frame.scroll_into_view_if_needed()
        return dict(frame.bounding_box())

    @property
    def divider(self) -> float:
        """Where the divider of the photograph that is shown stands, as a share of the picture's width."""
        frame = self.frame()
        line = self.page.locator(".compare:visible .divider").bounding_box()
        return float((line["x"] + line["width"] / 2 - frame["x"]) / frame["width"])


def visit(browser: Any, file: Path, width: int = 1280, scheme: str = "light") -> Visit:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: complaints.append(request.url) if request.url.startswith("http") else None)
    page.goto(file.as_uri())
    return Visit(page, complaints)


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (390, "light"), (1280, "dark"), (1280, "light")])
def test_it_loads_without_a_complaint_and_fits_the_screen(
    browser: Any, page_file: Path, width: int, scheme: str
) -> None:
    opened = visit(browser, page_file, width, scheme)
    page = opened.page
    assert opened.complaints == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    ink, paper = (
        page.evaluate(f"getComputedStyle(document.body).{name}").removeprefix("rgb(").split(",")[0]
        for name in ("color", "backgroundColor")
    )
    assert (int(ink) > 200 and int(paper) < 50) == (scheme == "dark")
    drawn = page.evaluate("getComputedStyle(document.querySelector('svg.chart text')).fill")
    assert drawn == page.evaluate("getComputedStyle(document.body).color") or drawn.startswith("rgb(")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"report-{width}-{scheme}.png", full_page=True)
    page.close()


def test_on_a_phone_words_stay_whole_and_charts_legible(browser: Any, page_file: Path) -> None:
    opened = visit(browser, page_file, 390)
    page = opened.page
    page.evaluate("document.querySelectorAll('details').forEach((part) => (part.open = true))")
    widths = page.evaluate("[...document.querySelectorAll('.scroll th:first-child')].map((cell) => cell.clientWidth)")
    assert len(widths) > 20
    assert min(widths) > 100
    heights = page.evaluate(
        "[...document.querySelectorAll('svg.chart')].map((chart) => chart.getBoundingClientRect().width"
        " / chart.viewBox.baseVal.width * Math.min(...[...chart.querySelectorAll('text')]"
        ".map((text) => parseFloat(getComputedStyle(text).fontSize))))"
    )
    assert len(heights) == 7
    assert min(heights) > 11  # CSS pixels
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.close()


def test_the_divider_moves_with_mouse_and_keyboard(browser: Any, page_file: Path) -> None:
    opened = visit(browser, page_file)
    page, slider = opened.page, opened.page.get_by_role("slider", name="Divider on <b>first.png")
    assert opened.divider == pytest.approx(0.5, abs=0.01)
    slider.focus()
    for _ in range(5):
        page.keyboard.press("ArrowLeft")
    assert opened.divider == pytest.approx(0.45, abs=0.01)
    assert slider.get_attribute("aria-valuetext") == "45 % blurred, 55 % int8"

    box = opened.frame()
    page.mouse.move(box["x"] + 0.45 * box["width"], box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 60, steps=4)
    page.mouse.up()
    assert opened.divider == pytest.approx(0.8, abs=0.01)
    assert slider.input_value() == "80"
    assert opened.complaints == []
    page.close()


def test_the_sides_are_chosen_and_the_picture_zooms(browser: Any, page_file: Path) -> None:
    opened = visit(browser, page_file)
    page = opened.page
    assert page.locator(".tag-left:visible").inner_text() == "blurred, 20.00 dB"
    page.locator(".compare:visible").get_by_label("Right").select_option(label="sharp")
    page.locator(".compare:visible").get_by_label("Left").select_option(label="sharp")  # the right side gives way
    assert page.locator(".tag-left:visible").inner_text() == "sharp"
    assert page.locator(".tag-right:visible").inner_text() == "blurred, 20.00 dB"

    picture = page.locator(".compare:visible .view.left img")
    before = picture.bounding_box()["width"]
    page.get_by_role("button", name="Zoom in").first.click()
    assert picture.bounding_box()["width"] == pytest.approx(2 * before)
    page.locator(".compare:visible .frame").focus()
    left = picture.bounding_box()["x"]
    page.keyboard.press("ArrowRight")
    assert picture.bounding_box()["x"] == pytest.approx(left - 40)
    page.keyboard.press("0")
    assert picture.bounding_box()["width"] == pytest.approx(before)
    assert opened.complaints == []
    page.close()


def test_touch_moves_the_divider_and_thumbnails_change_the_photograph(browser: Any, page_file: Path) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(page_file.as_uri())
    opened = Visit(page, [])
    page.get_by_role("tab", name="second.png").tap()
    assert page.get_by_role("tabpanel", name="second.png").is_visible()
    assert not page.get_by_role("tabpanel", name="<b>first.png").is_visible()
    box = opened.frame()
    touch = context.new_cdp_session(page)
    for kind, share in (("touchStart", 0.5), ("touchMove", 0.4), ("touchMove", 0.25), ("touchEnd", None)):
        points = [] if share is None else [{"x": box["x"] + share * box["width"], "y": box["y"] + 30}]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert opened.divider == pytest.approx(0.25, abs=0.02)
    page.get_by_role("tab", name="second.png").focus()
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("tabpanel", name="<b>first.png").is_visible()
    context.close()


def test_charts_have_names_descriptions_and_tables(browser: Any, page_file: Path) -> None:
    page = visit(browser, page_file).page
    charts = page.locator("svg.chart")
    assert charts.count() == page.locator(".charts figure details table").count() == 7
    for index in range(charts.count()):
        chart = charts.nth(index)
        names = chart.get_attribute("aria-labelledby").split()
        texts = [page.locator(f"[id='{name}']").text_content() for name in names]
        assert len(texts) == 2
        assert all(texts)
        assert chart.get_attribute("role") == "img"
    page.close()
