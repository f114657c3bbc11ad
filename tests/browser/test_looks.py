"""How the page looks, and to whom: widths, themes, accessibility, weight."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from benchmarks.page import first_picture, wire_size
from tests.browser.conftest import Visitor
from tests.browser.visit import Visit, origin
from tests.service.running import Running

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
        expect(view.locator(ready).first).to_be_visible(timeout=30_000)


def background(page: Page) -> float:
    colour: str = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(float(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(visitor: Visitor, served: Running, theme: str) -> None:
    visit = visitor(served, color_scheme=theme, viewport={"width": 1440, "height": 900})
    visit.wait_for_image([0, 0, 0])
    assert (background(visit.page) > 380) == (theme == "light")
    for view in VIEWS:
        show(visit, view)
        found = Axe().run(visit.page)
        assert not found.response["violations"], (view, found.generate_report())


def test_axe_finds_nothing_in_the_dialog(visitor: Visitor, served: Running) -> None:
    visit = visitor(served)
    visit.page.evaluate("document.querySelector('#key-dialog').showModal()")
    found = Axe().run(visit.page)
    assert not found.response["violations"], found.generate_report()


@pytest.mark.parametrize("width", [360, 768, 1440, 3840])
def test_it_holds_at_any_width(visitor: Visitor, colour: Running, width: int) -> None:
    visit = visitor(colour, viewport={"width": width, "height": 900})
    visit.wait_for_image([0] * 8)
    visit.page.evaluate(SHIFTS)
    for view in VIEWS[:-1]:
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


def test_it_is_light(browser: Browser, served: Running, capsys: pytest.CaptureFixture[str]) -> None:
    size = wire_size(browser, origin(served))
    milliseconds = first_picture(browser, origin(served))
    with capsys.disabled():
        print(f"\nFirst visit: {size} bytes; first picture after {milliseconds:.0f} ms")
    assert 10_000 < size <= WIRE_LIMIT
