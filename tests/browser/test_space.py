"""Space: the plot of the latents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Visitor
from tests.browser.visit import Visit, pixels, read_rgb, wait_until
from tests.service.pictures import Bytes
from tests.service.running import Running

pytestmark = pytest.mark.browser

ACCENT = (0xC2, 0x41, 0x0C)
"""Colour of the mark of the sliders' latent."""
PRINCIPAL_COMPONENTS = """async (points) => {
    const url = document.querySelector("script").src.replace("main.js", "latents.js");
    return (await import(url)).principalComponents(points, 3);
}"""
Places = npt.NDArray[np.float64]
TWO_FRAMES = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
"""Until what was asked for before is drawn."""


def show_space(visit: Visit) -> None:
    visit.show("Space")
    expect(visit.page.locator("#legend button").first).to_be_visible()
    visit.page.locator("#plot").scroll_into_view_if_needed()
    wait_until(lambda: bool(len(places_of(plot(visit), ACCENT))))


def plot(visit: Visit) -> Bytes:
    return pixels(visit.page.locator("#plot"))


def places_of(picture: Bytes, colour: Any) -> Places:
    """Pixels (N, 2) of a colour or of its mixtures with white, at least half of it: x, y."""
    from_white = np.array(colour, float) - 255
    given = picture.astype(float) - 255
    share = given @ from_white / (from_white @ from_white)
    rest = np.abs(given - share[..., None] * from_white).max(-1)
    return np.argwhere((share > 0.5) & (rest < 8))[:, ::-1].astype(float)


def marked(visit: Visit) -> Places:
    """Where the mark of the sliders' latent is."""
    picture = plot(visit)
    centre: Places = np.argwhere((picture == ACCENT).all(-1))[:, ::-1].mean(0)
    return centre


def after(visit: Visit, act: Callable[[], object]) -> Places:
    """Where the mark is once `act` has moved it."""
    before = marked(visit)
    act()
    wait_until(lambda: not np.array_equal(marked(visit), before))
    visit.page.evaluate(TWO_FRAMES)
    return marked(visit)


def show_only(visit: Visit, label: int) -> Any:
    """Hide all other labels; return this one's colour."""
    entries = visit.page.locator("#legend button")
    for at in range(entries.count()):
        if at != label:
            entries.nth(at).click()
    style: str = entries.nth(label).locator(".swatch").evaluate("one => one.style.backgroundColor")
    visit.page.evaluate(TWO_FRAMES)
    return [int(part) for part in style.removeprefix("rgb(").removesuffix(")").split(",")]


def on_page(visit: Visit, place: Places) -> Places:
    box = visit.page.locator("#plot").bounding_box()
    assert box
    moved: Places = place + np.array([box["x"], box["y"]])
    return moved


def test_the_space_is_seen(visit: Visit) -> None:
    assert not [url for url in visit.asked if "scatter" in url or url.endswith("/latents")]
    latents = visit.service.client.get("/latents").json()
    mean, labels = np.array(latents["mean"]), np.array(latents["label"])
    show_space(visit)
    entries = visit.page.locator("#legend button")
    assert entries.all_inner_texts() == [str(label) for label in range(10)]
    colours = entries.locator(".swatch").evaluate_all("all => all.map(one => one.style.background)")
    assert len(set(colours)) == 10
    after(visit, lambda: visit.slide(1, -1.5))

    colour = show_only(visit, 3)
    places = places_of(plot(visit), colour)
    x, y = on_page(visit, np.median(places, 0))
    visit.page.mouse.move(x, y)
    expect(visit.page.locator("#plot.on-point")).to_be_visible()
    visit.page.mouse.click(x, y)
    wait_until(lambda: bool(np.abs(mean[labels == 3] - visit.z).max(1).min() < 1e-4))
    visit.page.mouse.move(0, 0)
    entries.nth(3).click()
    wait_until(lambda: len(places_of(plot(visit), colour)) == 0)

    visit.page.get_by_label("Go to a test image of").select_option("7")
    visit.page.get_by_role("button", name="Next").click()
    visit.wait_for_z(latents["mean"][latents["label"].index(7)])
    with visit.page.expect_download() as saved:
        visit.page.locator("#space").get_by_role("button", name="Save PNG").click()
    assert np.array_equal(read_rgb(saved.value.path().read_bytes()), plot(visit))


def test_keys_and_dragging_turn_the_plot(visit: Visit) -> None:
    show_space(visit)
    start = marked(visit)
    visit.page.locator("#plot").focus()
    for key in ("ArrowLeft", "ArrowUp", "+", "-"):
        after(visit, lambda key=key: visit.page.keyboard.press(key))  # type: ignore[misc]
    assert np.array_equal(after(visit, lambda: visit.page.keyboard.press("0")), start)
    after(visit, lambda: drag(visit, 50, 0))


def drag(visit: Visit, x: float, y: float) -> None:
    """Drag the plot from its middle."""
    height, width, _ = plot(visit).shape
    left, top = on_page(visit, np.array([width / 2, height / 2]))
    visit.page.mouse.move(left, top)
    visit.page.mouse.down()
    visit.page.mouse.move(left + x, top + y)
    visit.page.mouse.up()


def test_two_dimensions_are_a_plane(visitor: Visitor, flat: Running) -> None:
    visit = visitor(flat)
    mean = np.array(flat.client.get("/latents").json()["mean"])
    show_space(visit)
    visit.slide(0, 0)
    first = after(visit, lambda: visit.slide(1, 0))
    right = after(visit, lambda: visit.slide(0, 1))
    unit, _ = right - first
    up = after(visit, lambda: visit.slide(1, 1))
    assert np.allclose(right - first, (unit, 0), atol=1)
    assert np.allclose(up - right, (0, -unit), atol=1)
    colour = show_only(visit, 0)
    members = first + mean[::3] * (unit, -unit)  # every third has label 0
    places = places_of(plot(visit), colour)
    assert np.allclose([places.min(0), places.max(0)], [members.min(0), members.max(0)], atol=5)

    before = visit.z
    moved = after(visit, lambda: drag(visit, 30, -20))
    assert np.allclose(moved - up, (30, -20), atol=1)
    assert visit.z == before  # no point was clicked
    height, width, _ = plot(visit).shape
    middle = np.array([width / 2, height / 2])
    visit.page.mouse.move(*on_page(visit, middle))
    zoomed = after(visit, lambda: visit.page.mouse.wheel(0, -500 * np.log(1.5)))
    assert np.allclose(zoomed - middle, 1.5 * (moved - middle), atol=2)
    assert np.allclose(
        after(visit, lambda: visit.page.mouse.dblclick(*on_page(visit, np.array([20.0, 20.0])))), up, atol=1
    )

    extreme = members[members[:, 0].argmin()]
    visit.page.mouse.click(*on_page(visit, extreme))
    visit.wait_for_z(mean[::3][members[:, 0].argmin()])
    visit.wait_for_image(visit.z)

    view = visit.show("Between")  # nothing is pinned: the ends are two samples
    expect(view.locator(".sheet canvas")).to_have_count(12)
    wait_until(lambda: pixels(view.locator(".sheet canvas").first).shape == (20, 32, 3))
    wait_until(lambda: "a=" in visit.url and "b=" in visit.url)


def test_two_fingers_zoom(visitor: Visitor, flat: Running) -> None:
    visit = visitor(flat, has_touch=True)
    show_space(visit)
    height, width, _ = plot(visit).shape
    middle = np.array([width / 2, height / 2])
    start = marked(visit)
    session = visit.page.context.new_cdp_session(visit.page)

    def touch(kind: str, *distances: float) -> None:
        places = [on_page(visit, middle + np.array([distance, 0])) for distance in distances]
        points = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(places)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", -40, 40)
    zoomed = after(visit, lambda: touch("touchMove", -80, 80))
    assert np.linalg.norm(zoomed - middle) > 1.5 * np.linalg.norm(start - middle)


def test_more_dimensions_are_seen_along_principal_components(visitor: Visitor, colour: Running) -> None:
    visit = visitor(colour)
    show_space(visit)
    mean = np.array(colour.client.get("/latents").json()["mean"])
    centred = mean - mean.mean(0)
    _, singular, _ = np.linalg.svd(centred)
    shares = singular**2 / (singular**2).sum()
    about = visit.page.locator("#space-description")
    expect(about).to_contain_text("first three principal components")
    expect(about).to_contain_text(f"{100 * shares[:3].sum():.0f} % of their variance")
    found = visit.page.evaluate(PRINCIPAL_COMPONENTS, mean.tolist())
    points = (mean - found["centre"]) @ np.transpose(found["axes"])
    assert np.allclose(points.var(0), (singular**2 / len(mean))[:3], rtol=1e-2)
