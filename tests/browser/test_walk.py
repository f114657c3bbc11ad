"""Sliders and the image that follows them."""

from __future__ import annotations

import asyncio
import re
from threading import Event
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from playwright.sync_api import expect

from benchmarks.page import walk_latency
from service.inference.backend import ByteArray, FloatArray
from service.inference.engine import Engine
from tests.browser.conftest import Visitor
from tests.browser.visit import Visit, nearest_labels, pixels, swapped, wait_until
from tests.service.running import Running

pytestmark = pytest.mark.browser

RENDERING = "canvas => getComputedStyle(canvas).imageRendering"


def test_the_first_image_is_large_and_smooth(visit: Visit) -> None:
    assert visit.z == visit.start != [0, 0, 0]
    assert nearest_labels(visit.service, visit.start).tolist().count(8) >= 8
    visit.wait_for_image(visit.start)
    image = visit.page.locator("#image")
    box = image.bounding_box()
    assert box
    assert box["width"] >= 300
    view = visit.show("Sample")
    canvases = [image, visit.page.locator("#model-input"), view.locator("canvas").first]
    assert [canvas.evaluate(RENDERING) for canvas in canvases] == ["auto"] * 3
    message = visit.page.get_by_role("status").and_(visit.page.locator("#message"))
    expect(message).to_have_count(1)  # a live region is read only if it exists before its text
    expect(message).to_be_empty()


def test_pixels_are_shown_and_remembered(visit: Visit) -> None:
    show_pixels = visit.page.get_by_label("Show pixels")
    expect(show_pixels).not_to_be_checked()
    show_pixels.click()
    wait_until(lambda: "pixels=true" in visit.url)
    visit.page.reload()
    expect(show_pixels).to_be_checked()
    canvases = visit.page.locator("#image, #model-input").all()
    assert [canvas.evaluate(RENDERING) for canvas in canvases] == ["pixelated"] * 2
    show_pixels.click()
    assert [canvas.evaluate(RENDERING) for canvas in canvases] == ["auto"] * 2
    wait_until(lambda: "pixels=false" in visit.url)


def test_sliders_move_the_image(visit: Visit) -> None:
    z = list(visit.start)
    for index, value in ((0, 1.5), (1, -2.0), (2, 0.75)):
        visit.slide(index, value)
        z[index] = value
        visit.wait_for_image(z)
        expect(visit.page.locator("#sliders output").nth(index)).to_have_text(f"{value:.2f}".replace("-", "−"))
    expect(visit.page.locator("#message")).to_be_empty()

    slider = visit.page.get_by_role("slider", name="z1")
    slider.press("End")
    high = float(slider.get_attribute("max") or 0)
    slider.press("ArrowLeft")
    assert float(slider.input_value()) == pytest.approx(high - 0.01)
    visit.wait_for_image([round(high - 0.01, 4), *z[1:]])


def test_double_clicks_and_the_button_go_to_the_origin(visit: Visit) -> None:
    visit.slide(0, 1.5)
    visit.slide(1, -1.5)
    visit.page.locator("#sliders input").first.dblclick(position={"x": 30, "y": 8})
    visit.wait_for_image([0, -1.5, *visit.start[2:]])
    visit.page.locator("#image").dblclick()
    visit.wait_for_image([0, 0, 0])
    visit.slide(1, -1.5)
    visit.page.get_by_role("button", name="Origin").click()
    visit.wait_for_image([0, 0, 0])


def test_sliders_reach_as_far_as_the_data_with_marks_at_sigma(visit: Visit) -> None:
    mean = np.array(visit.service.client.get("/latents").json()["mean"])
    for index, row in enumerate(visit.page.locator(".slider").all()):
        column = mean[:, index]
        slider = row.locator("input")
        low, high = float(slider.get_attribute("min") or 0), float(slider.get_attribute("max") or 0)
        assert low <= column.min() < low + 0.011
        assert high - 0.011 < column.max() <= high
        for sign, text in ((-1, "−σ"), (1, "+σ")):
            share = float(row.get_by_text(text).evaluate("mark => mark.style.getPropertyValue('--share')"))
            assert low + share * (high - low) == pytest.approx(column.mean() + sign * column.std(), abs=0.01)


def test_r_draws_at_random_and_shows_the_seed(visit: Visit) -> None:
    def count_samples() -> int:
        return sum("/sample?" in url for url in visit.asked)

    before = count_samples()
    seed = visit.page.locator("#seed")
    seeds = set()
    for _ in range(2):
        for _ in range(4):  # a held key repeats: one press
            visit.page.keyboard.down("r")
        visit.page.keyboard.up("r")
        expect(seed).to_have_text(re.compile(r"^seed \d+$"))
        wait_until(lambda: seed.inner_text() not in seeds)
        seeds.add(seed.inner_text())
    assert count_samples() == before + 2
    sample = visit.service.client.get(f"/sample?seed={seed.inner_text()[5:]}", headers={"accept": "application/json"})
    visit.wait_for_z(sample.json()["z"][0])
    visit.wait_for_image(visit.z)
    visit.slide(0, 0)
    expect(seed).to_be_empty()


def test_space_plays_a_smooth_path(visitor: Visitor, served: Running) -> None:
    visit = visitor(served)
    visit.slide(0, 0.5)
    visit.stop_the_clock()
    visit.page.keyboard.press("Space")
    path = visit.sliders_at_times(10, 50)
    assert path[0] == pytest.approx([0.5, *visit.start[1:]], abs=0.1)
    lengths = np.linalg.norm(np.diff(path, axis=0), axis=1)
    assert lengths.sum() > 0.2
    assert lengths.max() < 0.2
    visit.page.keyboard.press("Space")
    stopped = visit.sliders_at_times(3, 50)
    assert stopped[0] == stopped[2]
    visit.page.clock.resume()
    visit.wait_for_image(visit.z)


def test_paths_have_steps_where_motion_is_reduced(visitor: Visitor, served: Running) -> None:
    visit = visitor(served, reduced_motion="reduce")
    view = visit.show("Between")
    expect(view.get_by_label("Position")).to_have_attribute("max", "11")
    visit.stop_the_clock()
    view.get_by_role("button", name="Play", exact=True).click()
    visit.page.clock.run_for(1500)
    assert view.get_by_label("Position").input_value() == "1"
    visit.page.locator("#play").click()
    path = visit.sliders_at_times(20, 60)
    assert len({tuple(z) for z in path}) == 2


def test_the_url_follows_a_path_until_a_slider_is_moved(visit: Visit) -> None:
    for _ in range(4):  # a held key repeats: one press
        visit.page.keyboard.down("Space")
    visit.page.keyboard.up("Space")
    play = visit.page.locator("#play")
    expect(play).to_have_attribute("aria-pressed", "true")
    for _ in range(2):
        before = visit.url
        wait_until(lambda before=before: visit.url != before)  # type: ignore[misc]
    expect(play).to_have_attribute("aria-pressed", "true")
    visit.slide(0, 1)
    expect(play).to_have_attribute("aria-pressed", "false")
    assert visit.page.locator("#sliders input").first.input_value() == "1"


def test_a_copied_link_shows_the_same_image(visit: Visit, visitor: Visitor) -> None:
    visit.page.keyboard.press("r")
    visit.show("Sample")
    visit.page.get_by_label("Temperature").fill("0.5")
    wait_until(lambda: "temperature=0.5" in visit.url)
    other = visitor(visit.service, visit.url)
    other.wait_for_image(visit.z)
    assert np.array_equal(pixels(other.page.locator("#image")), pixels(visit.page.locator("#image")))
    expect(other.page.get_by_role("tab", name="Sample")).to_have_attribute("aria-selected", "true")
    assert other.page.get_by_label("Temperature").input_value() == "0.5"

    other.page.evaluate("location.hash = 'z=1,-1,0.5&view=about'")
    other.wait_for_image([1, -1, 0.5])
    expect(other.page.locator("#about")).to_be_visible()


def test_an_invalid_link_shows_the_start(visitor: Visitor, served: Running) -> None:
    visit = visitor(served, "/#view=nothing&seed=-1&steps=1e6&method=x")
    for invalid in ("", "z=1,2", "z=a,b,c", "z=1,2,1e9", "z=,,"):
        if invalid:
            visit.slide(0, 1)
            visit.wait_for_image([1, *visit.start[1:]])
            visit.page.evaluate("hash => { location.hash = hash }", invalid)
        visit.wait_for_image(visit.start)
        z = ",".join(f"{value:g}" for value in visit.start)
        start = f"z={z}&view=draw&seed=0&temperature=1&steps=12&method=linear&pixels=false"
        wait_until(lambda start=start: urlsplit(visit.url).fragment == start)  # type: ignore[misc]


class Held(Engine):
    """Draws nothing before `released` is set."""

    def __init__(self, engine: Engine) -> None:
        self.config = engine.config
        self.asked: list[float] = []
        self.released = Event()
        self._engine = engine

    async def decode_scanlines(self, z: FloatArray, **options: Any) -> ByteArray:
        self.asked.append(float(z[0, 0]))
        await asyncio.to_thread(self.released.wait)
        return await self._engine.decode_scanlines(z, **options)


def test_one_request_at_a_time_and_never_an_older_image_over_a_newer(visit: Visit) -> None:
    visit.wait_for_image(visit.start)
    newest = visit.decoded([2, *visit.start[1:]])
    with swapped(visit.service, Held) as engine:
        try:
            for step in range(1, 9):
                visit.slide(0, step / 4)
                wait_until(lambda: bool(engine.asked))
        finally:
            engine.released.set()
        wait_until(lambda: np.array_equal(pixels(visit.page.locator("#image")), newest))
        assert engine.asked == [0.25, 2]


def test_walking_is_quick(visit: Visit, capsys: pytest.CaptureFixture[str]) -> None:
    latency = walk_latency(visit.page, moves=30)
    with capsys.disabled():
        print(f"\n{latency}")
    assert latency.count > 1
