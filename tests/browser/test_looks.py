"""How the page looks: widths, themes, accessibility, weight."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, Page, expect

from benchmarks.page import first_picture, wire_size
from tests.browser.conftest import Visitor
from tests.browser.test_draw import verdict
from tests.browser.visit import Visit, assert_accessible, given, origin, pixels, wait_until
from tests.service.pictures import Bytes, png
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


USE_OF_SPACE = """() => {
    // The right edge of the view, as a share of the window's width; how much of its height lies below its content;
    // the share of its area that its pictures cover.
    const view = document.querySelector("[role=tabpanel]:not([hidden])");
    const box = view.getBoundingClientRect();
    const pictures = [...view.querySelectorAll("canvas")];
    const area = pictures.reduce((sum, { offsetWidth, offsetHeight }) => sum + offsetWidth * offsetHeight, 0);
    const below = box.bottom - view.lastElementChild.getBoundingClientRect().bottom;
    return [box.right / innerWidth, below / box.height, area / (box.width * box.height)];
}"""


def show(visit: Visit, name: str) -> None:
    view = visit.show(name)
    ready = {"Between": "#strip canvas", "Sample": "#sheet canvas", "Space": "#legend button"}.get(name)
    if ready:
        expect(view.locator(ready).first).to_be_visible()


def background(page: Page) -> float:
    colour: str = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(float(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))


def assert_fits(page: Page, width: int) -> None:
    """Nothing reaches beyond the right edge of the window."""
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    out = "all => all.filter(one => one.getBoundingClientRect().right > innerWidth + 1).map(one => one.outerHTML)"
    assert not page.locator("button:visible, canvas:visible, input:visible").evaluate_all(out)


@pytest.mark.parametrize("width", [360, 1440])
def test_axe_finds_nothing(visitor: Visitor, served: Running, images: Bytes, width: int) -> None:
    visit = visitor(served, viewport={"width": width, "height": 900})
    visit.wait_for_image(visit.start)
    assert_accessible(visit.page)  # with the example
    visit.page.get_by_label("choose a picture").set_input_files(given(png(images[0])))
    verdict(visit)
    for theme in ("light", "dark"):
        visit.page.emulate_media(color_scheme=theme)
        assert (background(visit.page) > 380) == (theme == "light")
        for view in VIEWS:
            show(visit, view)
            assert_fits(visit.page, width)
            assert_accessible(visit.page)
        visit.page.get_by_role("button", name="Pin A").click()
        expect(visit.page.locator("#message")).to_contain_text("Pinned as A")
        assert_accessible(visit.page)


def test_axe_finds_nothing_in_the_dialogs(visitor: Visitor, locked: Running) -> None:
    visit = visitor(locked, faults=True)
    themes = ("light", "dark")
    dialog = visit.page.get_by_role("dialog")
    dialog.get_by_label("API key").fill("wrong")
    visit.page.keyboard.press("Enter")
    expect(dialog.get_by_role("alert")).not_to_be_empty()
    for theme in themes:
        visit.page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
        assert_accessible(visit.page)
    dialog.get_by_label("API key").fill("sesame")
    visit.page.keyboard.press("Enter")
    visit.page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    visit.page.locator("#walk").get_by_role("button", name="Copy as curl").click()
    expect(visit.page.get_by_label("Copy this").last).to_have_value(re.compile("^curl"))
    for theme in themes:
        visit.page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
        assert_accessible(visit.page)


def test_it_fits_any_width(visitor: Visitor, colour: Running) -> None:
    visit = visitor(colour)
    for width in (360, 768, 1440, 3840):
        visit.page.set_viewport_size({"width": width, "height": 900})
        visit.page.reload()
        visit.wait_for_image(visit.start)
        expect(visit.page.locator("#reconstruction-badge")).to_be_visible()
        visit.page.evaluate(SHIFTS)
        for view in VIEWS:
            show(visit, view)
            assert_fits(visit.page, width)
        assert visit.page.evaluate("globalThis.shift") < 0.01, visit.page.evaluate("globalThis.shifted")
        visit.show("Draw")
        wait_until(lambda: "view=draw" in visit.url)


def test_a_wide_window_is_used(visitor: Visitor, served: Running) -> None:
    visit = visitor(served)
    for width, height in ((1400, 900), (1920, 1080)):
        visit.page.set_viewport_size({"width": width, "height": height})
        for view in ("Draw", "Between", "Sample", "Space"):
            show(visit, view)
            right, below, pictures = visit.page.evaluate(USE_OF_SPACE)
            assert right > 0.95, (width, view)
            assert below < 0.2, (width, view)
            assert pictures > 0.38, (width, view)


def test_everything_is_reached_by_tab_and_the_focus_is_seen(visit: Visit) -> None:
    reached = set()
    for _ in range(40):
        visit.page.keyboard.press("Tab")
        reached.add(visit.page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
        assert visit.page.evaluate(OUTLINE) in ("3px", "none focused")
    assert {"play", "random", "origin", "pixels", "tab-draw", "pad", "file", "invert", "undo", "clear"} <= reached
    visit.page.locator("#tab-draw").focus()
    visit.page.keyboard.press("ArrowRight")
    expect(visit.page.locator("#tab-space")).to_have_attribute("aria-selected", "true")
    visit.page.keyboard.press("End")
    expect(visit.page.locator("#tab-about")).to_be_focused()


def test_everything_is_done_by_keyboard(visit: Visit) -> None:
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
    visit.wait_for_image([round(low + 0.02, 2), *visit.start[1:]])
    for pin in ("a", "b"):
        tab_to(f"[data-pin={pin}]")
        keyboard.press("Enter")
        assert visit.pinned(pin) == visit.z
        visit.page.locator("#sliders input").first.focus()
        keyboard.press("End")
    tab_to("[data-exports=walk] button")
    keyboard.press("Enter")
    expect(visit.page.locator("#message")).to_contain_text("Copied")
    visit.page.locator("#tab-draw").focus()
    for view in ("space", "between", "sample", "about"):
        keyboard.press("ArrowRight")
        expect(visit.page.locator(f"#{view}")).to_be_visible()
        if view == "space":
            expect(visit.page.locator("#next")).to_be_enabled()
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
        tab_to(f"[data-exports={view}] button")
        keyboard.press("Enter")
        expect(visit.page.locator("#message")).to_contain_text("Copied")
        visit.page.locator(f"#tab-{view}").focus()


def test_it_is_light(chromium: Browser, served: Running, capsys: pytest.CaptureFixture[str]) -> None:
    size = wire_size(chromium, origin(served))
    milliseconds = first_picture(chromium, origin(served))
    with capsys.disabled():
        print(f"\nFirst visit: {size} bytes; first picture after {milliseconds:.0f} ms")
    assert 10_000 < size <= WIRE_LIMIT
