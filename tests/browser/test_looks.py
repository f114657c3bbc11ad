"""How the page looks, and to whom: widths, themes, accessibility, weight."""

from __future__ import annotations

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from benchmarks.page import first_picture, wire_size
from tests.browser.conftest import Visitor
from tests.browser.test_draw import verdict
from tests.browser.visit import PLOT_MS, Visit, given, origin, pixels, wait_until
from tests.service.pictures import Bytes, png
from tests.service.running import Running, running

pytestmark = pytest.mark.browser

VIEWS = ("Draw", "Between", "Sample", "About", "Space")
WIRE_LIMIT = 60_000
OUTLINE = """() => {
    const focused = document.activeElement;
    if (focused === document.body) return "none focused";
    return getComputedStyle(focused.id === "file" ? document.querySelector(".link") : focused).outlineWidth;
}"""
SHIFTS = """() => {
    globalThis.shift = 0;
    globalThis.shifted = [];
    new PerformanceObserver((list) => {
        for (const entry of list.getEntries()) {
            globalThis.shift += entry.value;
            globalThis.shifted.push(...entry.sources.map(({ node }) => node?.id || node?.className || String(node)));
        }
    }).observe({ type: "layout-shift", buffered: true });
}"""


def show(visit: Visit, name: str) -> None:
    view = visit.show(name)
    ready = {"Between": "#strip canvas", "Sample": "#sheet canvas", "Space": "#legend button"}.get(name)
    if ready:
        expect(view.locator(ready).first).to_be_visible(timeout=PLOT_MS)


def background(page: Page) -> float:
    colour: str = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(float(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))


def assert_accessible(page: Page) -> None:
    """Nothing that axe knows of is wrong, once what moves in and out has come to rest."""
    wait_until(lambda: page.evaluate("document.getAnimations().length") == 0)
    found = Axe().run(page)
    assert not found.response["violations"], found.generate_report()


@pytest.mark.parametrize("width", [360, 1440])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(visitor: Visitor, served: Running, images: Bytes, theme: str, width: int) -> None:
    visit = visitor(served, color_scheme=theme, viewport={"width": width, "height": 900})
    visit.wait_for_image([0, 0, 0])
    assert (background(visit.page) > 380) == (theme == "light")
    visit.page.get_by_label("choose a picture").set_input_files(given(png(images[0])))
    verdict(visit)
    for view in VIEWS:
        show(visit, view)
        assert_accessible(visit.page)
    visit.page.get_by_role("button", name="Pin A").click()
    expect(visit.page.locator("#message")).to_contain_text("pinned")
    assert_accessible(visit.page)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_in_the_dialogs(visitor: Visitor, theme: str) -> None:
    with running(api_keys=("sesame",)) as service:
        visit = visitor(service, faults=True, color_scheme=theme)
        dialog = visit.page.get_by_role("dialog")
        dialog.get_by_label("API key").fill("wrong")
        visit.page.keyboard.press("Enter")
        expect(dialog.get_by_role("alert")).not_to_be_empty()
        assert_accessible(visit.page)
        dialog.get_by_label("API key").fill("sesame")
        visit.page.keyboard.press("Enter")
        visit.page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
        visit.page.locator("#walk").get_by_role("button", name="Copy as curl").click()
        expect(visit.page.get_by_label("Copy this").last).to_have_value(re.compile("^curl"))
        assert_accessible(visit.page)


def test_what_is_told_is_there_before_it_is_told(visit: Visit) -> None:
    message = visit.page.get_by_role("status").and_(visit.page.locator("#message"))
    expect(message).to_have_count(1)  # a live region that comes with its words is not read
    expect(message).to_be_empty()


@pytest.mark.parametrize("width", [360, 768, 1440, 3840])
def test_it_holds_at_any_width(visitor: Visitor, colour: Running, width: int) -> None:
    visit = visitor(colour, viewport={"width": width, "height": 900})
    visit.wait_for_image([0] * 8)
    visit.page.evaluate(SHIFTS)
    for view in VIEWS:
        show(visit, view)
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
        out = "all => all.filter(one => one.getBoundingClientRect().right > innerWidth + 1).map(one => one.outerHTML)"
        assert not visit.page.locator("button:visible, canvas:visible, input:visible").evaluate_all(out)
    assert visit.page.evaluate("globalThis.shift") < 0.01, visit.page.evaluate("globalThis.shifted")


def test_everything_is_reached_by_tab_and_the_focus_is_seen(visit: Visit) -> None:
    reached = set()
    for _ in range(40):
        visit.page.keyboard.press("Tab")
        reached.add(visit.page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
        assert visit.page.evaluate(OUTLINE) in ("3px", "none focused")
    assert {"play", "random", "reset", "tab-draw", "pad", "file", "invert", "undo", "clear"} <= reached
    visit.page.locator("#tab-draw").focus()
    visit.page.keyboard.press("ArrowRight")
    expect(visit.page.locator("#tab-space")).to_have_attribute("aria-selected", "true")
    visit.page.keyboard.press("End")
    expect(visit.page.locator("#tab-about")).to_be_focused()


def test_everything_is_done_by_keyboard(visitor: Visitor, served: Running) -> None:
    visit = visitor(served, permissions=["clipboard-read", "clipboard-write"])
    keyboard = visit.page.keyboard

    def tab_to(selector: str) -> None:
        for _ in range(40):
            if visit.page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
            keyboard.press("Tab")
        raise AssertionError(f"{selector} is not reached.")

    tab_to("#sliders input")
    for key in ("Home", "ArrowRight", "ArrowRight"):
        keyboard.press(key)
    low = float(visit.page.locator("#sliders input").first.get_attribute("min") or 0)
    visit.wait_for_image([round(low + 0.02, 2), 0, 0])
    for pin in ("a", "b"):
        tab_to(f"[data-pin={pin}]")
        keyboard.press("Enter")
        assert visit.pinned(pin) == visit.z
        visit.page.locator("#sliders input").first.focus()
        keyboard.press("End")
    tab_to("[data-home=walk] button")
    keyboard.press("Enter")
    expect(visit.page.locator("#message")).to_contain_text("Copied")
    visit.page.locator("#tab-draw").focus()
    for view in ("space", "between", "sample", "about"):
        keyboard.press("ArrowRight")
        expect(visit.page.locator(f"#{view}")).to_be_visible()
        if view == "space":
            expect(visit.page.locator("#next")).to_be_enabled(timeout=PLOT_MS)
            tab_to("#next")
            before = visit.z
            keyboard.press("Enter")
            wait_until(lambda before=before: visit.z != before)  # type: ignore[misc]
        elif view in ("between", "sample"):
            tile = visit.page.locator(f"#{view} .sheet canvas").nth(1)
            wait_until(lambda tile=tile: pixels(tile).shape == (28, 28, 3))  # type: ignore[misc]
            tab_to(f"#{view} .sheet button")
            before = visit.z
            keyboard.press("ArrowRight")
            keyboard.press("Enter")
            wait_until(lambda before=before: visit.z != before)  # type: ignore[misc]
        tab_to(f"[data-home={view}] button")
        keyboard.press("Enter")
        expect(visit.page.locator("#message")).to_contain_text("Copied")
        visit.page.locator(f"#tab-{view}").focus()


def test_it_is_light(browser: Browser, served: Running, capsys: pytest.CaptureFixture[str]) -> None:
    size = wire_size(browser, origin(served))
    milliseconds = first_picture(browser, origin(served))
    with capsys.disabled():
        print(f"\nFirst visit: {size} bytes; first picture after {milliseconds:.0f} ms")
    assert 10_000 < size <= WIRE_LIMIT
