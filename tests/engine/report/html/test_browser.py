"""The report in a real browser: by keyboard, in 3-D, on a phone, in a dark scheme, and with hostile names.

Needs the package playwright and a Chromium, that of the system or that of `playwright install chromium`.
"""

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from engine.report.html.page import ViewableCase, write_page
from engine.report.html.viewer import STEP_HU, Map
from tests.engine.report.html.pages import HOSTILE, NOTE, page_of, small_view

playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
pytestmark = pytest.mark.browser

KEYS = ["west/a", HOSTILE, "west/c"]
SOFTWARE_GL = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
PATIENCE_MS = 60_000
PINK, GREEN = (255, 70, 200), (64, 224, 96)  # of the prediction and the reference
RED = (255, 120, 45)  # between yellow and red, of a probability of 0.75


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        own = Path(driver.chromium.executable_path)
        if not found and not own.exists():
            pytest.skip("there is no Chromium: apt-get install chromium, or playwright install chromium")
        started = driver.chromium.launch(executable_path=found or str(own), args=SOFTWARE_GL)
        yield started
        started.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_page(path, page_of(KEYS))
    return path


@pytest.fixture
def tab(browser, report) -> Iterator[Any]:
    """The report, opened; at the end, that it asked for nothing, complained of nothing and ran no name."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    page = context.new_page()
    faults, asked = [], []
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report.as_uri())
    yield page
    assert page.evaluate("window.hacked") is None
    assert not faults
    assert all(re.match(r"data:|blob:", url) or url.partition("#")[0] == report.as_uri() for url in asked), asked
    context.close()


def wait_until_open(page: Any, key: str) -> None:
    """Wait for the line about a case. The page's policy forbids what wait_for_function does."""
    status = page.locator("#viewer-status")
    playwright.expect(status).to_have_text(f"{key}: described", timeout=PATIENCE_MS)
    page.wait_for_timeout(300)


def picture(page: Any, canvas: str) -> np.ndarray:
    png = np.frombuffer(page.locator(canvas).screenshot(), np.uint8)
    return cv2.imdecode(png, cv2.IMREAD_COLOR)


def pixels(page: Any, canvas: str, colour: tuple[int, int, int]) -> int:
    """Count the pixels of a canvas that have about the hue of a colour, whatever lies below it."""
    hsv = cv2.cvtColor(picture(page, canvas), cv2.COLOR_BGR2HSV).astype(int)
    hue = int(cv2.cvtColor(np.uint8([[colour]]), cv2.COLOR_RGB2HSV)[0, 0, 0])
    apart = np.abs(hsv[..., 0] - hue)
    return int(np.count_nonzero((np.minimum(apart, 180 - apart) < 8) & (hsv[..., 1] > 80) & (hsv[..., 2] > 60)))


def place_of(page: Any) -> tuple[int, int, int]:
    """Return the voxel (z, y, x) that all slices show, after the line about it was compared with the scan."""
    text = page.locator("#viewer-place").inner_text()
    found = re.fullmatch(r"z (\d+), y (\d+), x (\d+): (-?\d+) HU, in (.+), probability (.+)", text)
    voxel, view = tuple(int(n) for n in found.groups()[:3]), small_view()
    assert abs(int(found[4]) - view.image[voxel]) <= STEP_HU / 2
    assert float(found[6]) == pytest.approx(view.maps[0].values[voxel], abs=0.01)
    assert found[5] == (", ".join(layer.name for layer in view.layers if layer.mask[voxel]) or "no mask")
    return voxel


def first_column(page: Any) -> list[str]:
    return page.locator("table.sortable tbody th").all_inner_texts()


def test_the_table_is_sorted_by_keyboard(tab):
    button = tab.locator("table.sortable thead button", has_text="Dice")
    head = tab.locator("table.sortable thead th", has_text="Dice")
    button.focus()
    tab.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending" and first_column(tab) == KEYS
    tab.keyboard.press("Space")
    assert head.get_attribute("aria-sort") == "descending"
    assert first_column(tab) == [KEYS[1], KEYS[0], KEYS[2]]  # a case without a Dice stays last
    tab.keyboard.press("Shift+Tab")
    tab.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") is None and first_column(tab)[0] == HOSTILE


def test_a_case_is_opened_and_changed_by_keyboard(tab):
    tab.locator("table.sortable tbody a").first.focus()
    tab.keyboard.press("Enter")
    wait_until_open(tab, KEYS[0])
    assert pixels(tab, "#viewer-slices", PINK) > 100 and pixels(tab, "#viewer-slices", GREEN) > 100
    assert pixels(tab, "#viewer-surface", PINK) > 500 and pixels(tab, "#viewer-surface", GREEN) > 500
    outlines = picture(tab, "#viewer-slices").astype(int)
    tab.get_by_label("outlines only").focus()
    tab.keyboard.press("Space")
    changed = np.abs(picture(tab, "#viewer-slices") - outlines).max(axis=-1) > 20
    assert changed.sum() > 3000  # filled
    tab.get_by_label("prediction").focus()
    tab.keyboard.press("Space")
    assert pixels(tab, "#viewer-slices", PINK) == pixels(tab, "#viewer-surface", PINK) == 0
    assert pixels(tab, "#viewer-slices", GREEN) > 100
    assert pixels(tab, "#viewer-slices", RED) == 0
    tab.get_by_label("probability").focus()
    tab.keyboard.press("Space")
    assert pixels(tab, "#viewer-slices", RED) > 100  # it is high where the prediction was
    z, y, x = place_of(tab)
    tab.locator("#viewer-z").focus()
    tab.keyboard.press("ArrowRight")
    assert place_of(tab) == (z + 1, y, x)
    tab.locator("#viewer-next").focus()
    tab.keyboard.press("Enter")
    wait_until_open(tab, HOSTILE)
    assert not tab.get_by_label("prediction").is_checked()  # the choice holds for the next case


def test_a_click_into_a_slice_moves_all_slices(tab):
    tab.locator("#viewer-open").click()
    wait_until_open(tab, KEYS[0])
    box = tab.locator("#viewer-slices").bounding_box()
    places = {place_of(tab)}
    for right, down in ((0.15, 0.2), (0.3, 0.25), (0.35, 0.75), (0.75, 0.25)):
        tab.mouse.click(box["x"] + right * box["width"], box["y"] + down * box["height"])
        tab.wait_for_timeout(200)
        places.add(place_of(tab))
    assert len(places) > 2


def test_a_name_that_is_a_script_is_shown_and_opened_as_text(tab, report):
    tab.goto(report.as_uri())
    tab.get_by_role("link", name=HOSTILE).click()
    wait_until_open(tab, HOSTILE)
    assert tab.locator("#viewer-case option:checked").inner_text() == HOSTILE
    assert tab.locator("table img").count() == 0


def test_the_colours_of_an_uncertainty_end_at_its_own_highest_value(browser, tmp_path):
    view = small_view()
    spread = Map("uncertainty", 0.5 * view.maps[0].values, 0.5, "how far they disagree")  # 0.75 of the highest
    case = ViewableCase("a", "a: described", lambda: replace(view, maps=[spread]))
    write_page(tmp_path / "report.html", replace(page_of(["a"]), cases=[case]))
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.goto((tmp_path / "report.html").as_uri())
    page.locator("#viewer-open").click()
    wait_until_open(page, "a")
    page.get_by_label("prediction").uncheck()
    page.get_by_label("uncertainty").check()
    assert pixels(page, "#viewer-slices", RED) > 100
    assert "how far they disagree" in page.locator("#viewer-layers").inner_text()
    page.close()


@pytest.mark.parametrize("width", [390, 1300, 1920])
def test_a_note_can_be_read_at_every_width_and_moves_with_its_row(browser, report, width):
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(report.as_uri())
    note = page.locator("tr.remark div")
    box, frame = note.bounding_box(), page.locator(".scroll", has=note).bounding_box()
    assert note.inner_text() == NOTE.strip()
    assert frame["x"] <= box["x"] and box["x"] + box["width"] <= frame["x"] + frame["width"] <= width
    for _ in range(2):
        page.locator("table.sortable thead button", has_text="Dice").click()
    assert page.locator("tr.remark").evaluate("row => row.previousElementSibling.cells[0].innerText") == KEYS[0]
    assert first_column(page)[0] != KEYS[0]
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_at_the_width_of_a_phone_in_both_schemes(browser, report, scheme):
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    size = page.evaluate("parseFloat(getComputedStyle(document.querySelector('td')).fontSize)")
    assert size >= 13
    style = "(e => [getComputedStyle(e).color, getComputedStyle(document.body).backgroundColor])"
    for element in ("document.body", "document.querySelector('header p')", "document.querySelector('table a')"):
        text, ground = (luminance(colour) for colour in page.evaluate(f"{style}({element})"))
        assert (max(text, ground) + 0.05) / (min(text, ground) + 0.05) > 4.5, element  # WCAG 2.1, level AA
        assert (ground < 0.2) == (scheme == "dark")
    context.close()


def luminance(colour: str) -> float:
    """The relative luminance of a colour rgb(r, g, b), as WCAG 2.1 defines it."""
    shares = [int(number) / 255 for number in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))
