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
from service.inference.engine import ByteArray, Engine, FloatArray
from tests.browser.conftest import Visitor
from tests.browser.visit import Visit, pixels, wait_until
from tests.service.running import Running, running

pytestmark = pytest.mark.browser


def test_sliders_move_the_image(visit: Visit) -> None:
    visit.wait_for_image([0, 0, 0])
    z = [0.0, 0.0, 0.0]
    for index, value in ((0, 1.5), (1, -2.0), (2, 0.75)):
        visit.slide(index, value)
        z[index] = value
        visit.wait_for_image(z)
        expect(visit.page.locator("#sliders output").nth(index)).to_have_text(f"{value:.2f}".replace("-", "−"))
    expect(visit.page.locator("#message")).to_be_empty()


def test_the_image_is_large_and_crisp(visit: Visit) -> None:
    image = visit.page.locator("#image")
    box = image.bounding_box()
    assert box
    assert box["width"] >= 300
    assert image.evaluate("canvas => getComputedStyle(canvas).imageRendering") == "pixelated"


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


def test_arrow_keys_step(visit: Visit) -> None:
    slider = visit.page.get_by_role("slider", name="z1")
    slider.press("End")
    high = float(slider.get_attribute("max") or 0)
    slider.press("ArrowLeft")
    assert float(slider.input_value()) == pytest.approx(high - 0.01)
    visit.wait_for_image([round(high - 0.01, 4), 0, 0])


def test_double_click_resets(visit: Visit) -> None:
    visit.slide(0, 1.5)
    visit.slide(1, -1.5)
    visit.page.locator("#sliders input").first.dblclick(position={"x": 30, "y": 8})
    visit.wait_for_image([0, -1.5, 0])
    visit.page.locator("#image").dblclick()
    visit.wait_for_image([0, 0, 0])


def test_r_draws_at_random_and_shows_the_seed(visit: Visit) -> None:
    seeds = set()
    for _ in range(2):
        visit.page.keyboard.press("r")
        seed = visit.page.locator("#seed")
        expect(seed).to_have_text(re.compile(r"^seed \d+$"))
        wait_until(lambda seed=seed: seed.inner_text() not in seeds)  # type: ignore[misc]
        seeds.add(seed.inner_text())
    sample = visit.service.client.get(f"/sample?seed={seed.inner_text()[5:]}", headers={"accept": "application/json"})
    visit.wait_for_z(sample.json()["z"][0])
    visit.wait_for_image(visit.z)
    visit.slide(0, 0)
    expect(seed).to_be_empty()


def test_space_plays_a_smooth_walk(visit: Visit) -> None:
    visit.slide(0, 0.5)
    visit.stop_the_clock()
    visit.page.keyboard.press("Space")
    walked = visit.sliders_at_times(10, 50)
    assert walked[0] == pytest.approx([0.5, 0, 0], abs=0.1)
    lengths = np.linalg.norm(np.diff(walked, axis=0), axis=1)
    assert lengths.sum() > 0.2
    assert lengths.max() < 0.2
    visit.page.keyboard.press("Space")
    stopped = visit.sliders_at_times(3, 50)
    assert stopped[0] == stopped[2]
    visit.page.clock.resume()
    visit.wait_for_image(visit.z)


def test_a_walk_does_not_flow_where_motion_is_unwanted(visitor: Visitor, served: Running) -> None:
    visit = visitor(served, reduced_motion="reduce")
    visit.stop_the_clock()
    visit.page.locator("#play").click()
    walked = visit.sliders_at_times(20, 60)
    assert len({tuple(z) for z in walked}) == 2


def test_a_key_that_is_held_is_one_press(visit: Visit) -> None:
    def asked() -> int:
        return sum("/sample?" in url for url in visit.asked)

    for _ in range(4):
        visit.page.keyboard.down("Space")
    visit.page.keyboard.up("Space")
    expect(visit.page.locator("#play")).to_have_attribute("aria-pressed", "true")
    visit.page.locator("#play").click()
    for _ in range(4):
        visit.page.keyboard.down("r")
    visit.page.keyboard.up("r")
    expect(visit.page.locator("#seed")).not_to_be_empty()
    assert asked() == 1


def test_the_url_keeps_up_with_a_walk(visit: Visit) -> None:
    visit.page.locator("#play").click()
    for _ in range(2):
        before = visit.url
        wait_until(lambda before=before: visit.url != before)  # type: ignore[misc]
    expect(visit.page.locator("#play")).to_have_attribute("aria-pressed", "true")


def test_what_comes_late_does_not_undo_what_was_chosen_since(visit: Visit) -> None:
    held = visit.hold("**/sample?n=1&*")
    visit.page.keyboard.press("r")
    held.wait()
    visit.slide(0, 1.25)
    held.release()
    assert visit.z == [1.25, 0, 0]
    expect(visit.page.locator("#seed")).to_be_empty()


def test_a_hand_on_the_slider_ends_the_walk(visit: Visit) -> None:
    visit.page.locator("#play").click()
    visit.slide(0, 1)
    expect(visit.page.locator("#play")).to_have_attribute("aria-pressed", "false")
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


def test_a_changed_url_is_followed(visit: Visit) -> None:
    visit.page.evaluate("location.hash = 'z=1,-1,0.5&view=about'")
    visit.wait_for_image([1, -1, 0.5])
    expect(visit.page.locator("#about")).to_be_visible()


@pytest.mark.parametrize("spoilt", ["z=1,2", "z=a,b,c", "z=1,2,1e9", "z=,,", "view=nothing&seed=-1&steps=1e6&method=x"])
def test_a_spoilt_link_is_a_fresh_start(visitor: Visitor, served: Running, spoilt: str) -> None:
    visit = visitor(served, f"/#{spoilt}")
    visit.wait_for_image([0, 0, 0])
    fresh = "#z=0,0,0&view=draw&seed=0&temperature=1&steps=12&method=linear"
    wait_until(lambda: urlsplit(visit.url).fragment == fresh[1:])


class Held(Engine):
    """Draws nothing before `released` is set."""

    def __init__(self, engine: Engine) -> None:
        self.config = engine.config
        self.asked: list[float] = []
        self.released = Event()
        self._engine = engine

    async def draw(self, z: FloatArray, **options: Any) -> ByteArray:
        self.asked.append(float(z[0, 0]))
        await asyncio.to_thread(self.released.wait)
        return await self._engine.decode_scanlines(z, **options)


def test_one_request_at_a_time_and_never_an_older_image_over_a_newer(visitor: Visitor) -> None:
    with running() as service:
        visit = visitor(service)
        visit.wait_for_image([0, 0, 0])
        newest = visit.decoded([2, 0, 0])
        service.swap_engine(Held)
        engine = service.app.state.model_context.engine
        assert isinstance(engine, Held)
        try:
            for step in range(1, 9):
                visit.slide(0, step / 4)
                wait_until(lambda: bool(engine.asked))
        finally:
            engine.released.set()
        wait_until(lambda: np.array_equal(pixels(visit.page.locator("#image")), newest))
        assert engine.asked == [0.25, 2]


def test_walking_is_quick(visit: Visit, capsys: pytest.CaptureFixture[str]) -> None:
    latency = walk_latency(visit.page, moves=60)
    with capsys.disabled():
        print(f"\n{latency}")
    assert latency.count > 1
