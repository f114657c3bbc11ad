"""What the page does when the service does not answer as it should: keys, 503, no connection, a slow network."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Route, expect

from service.errors import InvalidInput, Problem
from service.inference.engine import ByteArray, Engine, FloatArray
from tests.browser.conftest import Visitor
from tests.browser.visit import PLOT_MS, pixels, read_rgb, tiles, wait_until
from tests.service.running import Running, running

pytestmark = pytest.mark.browser


def test_a_key_is_asked_for_once_and_kept_for_the_tab(visitor: Visitor, tmp_path: Path) -> None:
    with running(api_keys=("sesame",)) as service:
        visit = visitor(service, faults=True, permissions=["clipboard-read", "clipboard-write"])
        dialog = visit.page.get_by_role("dialog")
        expect(dialog).to_contain_text("asks for a key")
        service.client.headers["x-api-key"] = "sesame"
        field = dialog.get_by_label("API key")
        field.fill("wrong")
        visit.page.keyboard.press("Enter")
        expect(dialog.get_by_role("alert")).to_contain_text("not one of this service's")
        expect(field).to_have_accessible_description("That key is not one of this service's.")
        field.fill("sesame")
        visit.page.keyboard.press("Enter")
        visit.wait_for_image([0, 0, 0])
        expect(dialog).to_be_hidden()
        visit.page.reload()
        visit.wait_for_image([0, 0, 0])
        expect(dialog).to_be_hidden()
        visit.show("Space")
        expect(visit.page.get_by_role("button", name="Next")).to_be_enabled()
        visit.page.locator("#walk").get_by_role("button", name="Copy as curl").click()
        expect(visit.page.locator("#message")).to_contain_text("with your key in it")
        command = visit.page.evaluate("navigator.clipboard.readText()")
        subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True, capture_output=True)
        assert np.array_equal(read_rgb((tmp_path / "walk.png").read_bytes()), visit.decoded([0, 0, 0]))
        assert visit.page.evaluate("localStorage.length") == 0
        assert "sesame" not in visit.url


@pytest.mark.parametrize("key", ["käse", "鍵"])
def test_a_key_of_letters_that_no_key_has_is_refused(visitor: Visitor, key: str) -> None:
    with running(api_keys=("sesame",)) as service:
        visit = visitor(service, faults=True)
        visit.page.get_by_label("API key").fill(key)
        visit.page.keyboard.press("Enter")
        expect(visit.page.get_by_role("alert")).to_contain_text("not one of this service's")


def test_a_dialog_that_is_closed_without_a_key_asks_again(visitor: Visitor) -> None:
    with running(api_keys=("sesame",)) as service:
        visit = visitor(service, faults=True)
        dialog = visit.page.get_by_role("dialog")
        visit.page.keyboard.press("Escape")
        expect(dialog).to_be_visible()
        dialog.get_by_label("API key").fill("half a k")
        visit.page.keyboard.press("Escape")
        expect(dialog).to_be_visible()
        dialog.get_by_label("API key").fill("sesame")
        visit.page.keyboard.press("Enter")
        service.client.headers["x-api-key"] = "sesame"
        visit.wait_for_image([0, 0, 0])
        assert not [headers for headers in visit.sent if "half" in headers.get("authorization", "")]


def test_a_busy_service_is_waited_for(visitor: Visitor) -> None:
    with running() as service:
        visit = visitor(service, faults=True)
        visit.wait_for_image([0, 0, 0])
        service.admission.status = "draining"
        message = visit.page.locator("#message")
        visit.slide(0, 1)
        expect(message).to_contain_text("busy; this goes on by itself")
        visit.slide(0, 1.5)
        service.admission.status = "ok"
        visit.wait_for_image([1.5, 0, 0])
        expect(message).to_be_empty()


def test_the_page_can_be_opened_before_the_service_is_ready(visitor: Visitor) -> None:
    with running() as service:
        service.admission.status = "starting"
        visit = visitor(service, faults=True)
        expect(visit.page.locator("#message")).to_contain_text("busy")
        service.admission.status = "ok"
        visit.wait_for_image([0, 0, 0])


def test_a_lost_connection_is_told_and_mended(visitor: Visitor, served: Running) -> None:
    visit = visitor(served, faults=True)
    visit.wait_for_image([0, 0, 0])
    visit.page.context.set_offline(True)
    visit.slide(0, 1)
    expect(visit.page.locator("#message")).to_contain_text("No connection; this goes on by itself")
    visit.page.context.set_offline(False)
    visit.wait_for_image([1, 0, 0])
    expect(visit.page.locator("#message")).to_be_empty()


def test_a_date_to_retry_after_is_not_retried_at_once(visitor: Visitor, served: Running) -> None:
    visit = visitor(served, faults=True)
    visit.wait_for_image([0, 0, 0])
    visit.stop_the_clock()
    asked = 0

    def refuse(route: Route) -> None:
        nonlocal asked
        asked += 1
        route.fulfill(status=503, headers={"retry-after": "Fri, 31 Dec 2038 23:59:59 GMT"})

    visit.page.route("**/decode", refuse)
    visit.slide(0, 1)
    expect(visit.page.locator("#message")).to_contain_text("busy")
    visit.page.clock.run_for(200)
    visit.page.evaluate("fetch('livez')")
    assert asked == 1
    visit.page.unroute_all()
    visit.page.clock.resume()
    visit.wait_for_image([1, 0, 0])


LOSE = """() => {  // the first body of each kind breaks off
    const { fetch } = globalThis;
    const lost = new Set();
    globalThis.fetch = async (url, options) => {
        const response = await fetch(url, options);
        if (lost.has(url)) return response;
        lost.add(url);
        return new Response(new ReadableStream({ start: (body) => body.error(new TypeError("lost")) }), response);
    };
}"""


def test_a_connection_that_is_lost_within_an_answer_is_mended(visitor: Visitor, served: Running) -> None:
    visit = visitor(served, "/docs")
    visit.page.add_init_script(f"({LOSE})()")
    visit.page.goto("/")
    visit.wait_for_image([0, 0, 0])
    visit.show("Sample")
    sheet = tiles(read_rgb(served.client.get("/sample?n=24&seed=0&columns=24").content), 28, 28)
    wait_until(lambda: np.array_equal(pixels(visit.page.locator("#sheet canvas").last), sheet[-1]))
    expect(visit.page.locator("#message")).to_be_empty()


@pytest.mark.parametrize(("file", "view"), [("views.js", "Draw"), ("strokes.js", "Draw"), ("plotly.js", "Space")])
def test_a_file_that_did_not_come_is_fetched_again(visitor: Visitor, served: Running, file: str, view: str) -> None:
    visit = visitor(served, "/docs", faults=True)
    failures = 2

    def fail(route: Route) -> None:
        nonlocal failures
        failures -= 1
        if failures < 0:
            route.continue_()
        else:
            route.abort()

    visit.page.route(f"**/{file}", fail)
    visit.page.goto("/")
    panel = visit.show(view)
    if view == "Space":
        expect(panel.locator("#legend button")).to_have_count(10, timeout=PLOT_MS)
        assert panel.get_by_label("Go to a test image of").locator("option").count() == 10
    expect(panel).to_be_visible()
    expect(visit.page.locator("#message")).to_be_empty()


def test_a_slow_network_is_borne(visitor: Visitor, served: Running) -> None:
    visit = visitor(served, "/docs")
    network = visit.page.context.new_cdp_session(visit.page)
    network.send("Network.enable")
    slow = {"offline": False, "latency": 300, "downloadThroughput": 50_000, "uploadThroughput": 20_000}
    network.send("Network.emulateNetworkConditions", slow)
    visit.page.goto("/")
    visit.wait_for_image([0, 0, 0])
    for step in range(1, 9):
        visit.slide(0, step / 4)
    visit.wait_for_image([2, 0, 0])
    view = visit.show("Between")
    view.get_by_label("Steps").fill("6")
    view.get_by_label("Steps").press("Enter")
    wait_until(lambda: view.locator(".sheet canvas").count() == 6)
    question = {"from": visit.pinned("a"), "to": visit.pinned("b"), "steps": 6}
    sheet = tiles(read_rgb(served.client.post("/interpolate", json=question).content), 28, 28)
    wait_until(lambda: all(map(np.array_equal, map(pixels, view.locator(".sheet canvas").all()), sheet)))
    expect(visit.page.locator("#message")).to_be_empty()


class Slow(Engine):
    """Takes a second to draw; then, if it `fails`, it does not."""

    fails = False

    def __init__(self, engine: Engine) -> None:
        self.config = engine.config
        self._engine = engine

    async def draw(self, z: FloatArray, **options: Any) -> ByteArray:
        await asyncio.sleep(1)
        if self.fails:
            raise InvalidInput(Problem("body", "", "Nothing can be drawn of it."))
        return await self._engine.decode_scanlines(z, **options)


def test_what_takes_long_is_seen_to_be_on_its_way(visitor: Visitor) -> None:
    with running() as service:
        visit = visitor(service)
        visit.wait_for_image([0, 0, 0])
        service.swap_engine(Slow)
        frame = visit.page.locator("#frame")
        assert frame.get_attribute("class") == "frame"
        visit.slide(0, 1)
        expect(frame).to_have_class("frame late")
        expect(frame).to_have_class("frame")
        visit.page.locator("#play").click()
        expect(frame).to_have_class("frame late")


def test_what_fails_late_is_no_longer_on_its_way(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Slow, "fails", True)
    with running() as service:
        visit = visitor(service, faults=True)
        visit.wait_for_image([0, 0, 0])
        service.swap_engine(Slow)
        visit.slide(0, 1)
        expect(visit.page.locator("#frame")).to_have_class("frame late")
        expect(visit.page.locator("#message")).to_contain_text("Nothing can be drawn of it")
        expect(visit.page.locator("#frame")).to_have_class("frame")


def test_what_is_refused_is_said(visitor: Visitor) -> None:
    with running(batch_limit=10) as service:
        visit = visitor(service, faults=True)
        visit.show("Sample")
        expect(visit.page.locator("#message")).to_contain_text("The request asks for 24 items")


def test_nothing_that_comes_is_taken_for_html(visitor: Visitor, served: Running) -> None:
    visit = visitor(served, "/docs", faults=True)
    evil = "<img src=x onerror='globalThis.caught = true'>"

    def fulfil(route: Route) -> None:
        answer = route.fetch()
        document = {**answer.json(), "name": evil, "architecture": evil, "sha256": evil, "training": {"dataset": evil}}
        route.fulfill(response=answer, json=document)

    visit.page.route("**/model", fulfil)
    visit.page.goto("/")
    view = visit.show("About")
    expect(view.get_by_role("heading")).to_have_text(evil)
    wait_until(lambda: view.locator("dd", has_text=evil).count() == 3)
    assert visit.page.locator("img").count() == 0
    assert not visit.page.evaluate("globalThis.caught")
