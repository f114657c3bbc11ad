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
from service.inference.backend import ByteArray, FloatArray
from service.inference.engine import Engine
from tests.browser.conftest import Visitor
from tests.browser.visit import pixels, read_rgb, swapped, tiles, wait_until
from tests.service.running import Running

pytestmark = pytest.mark.browser


def test_a_key_is_asked_for_once_and_kept_for_the_tab(visitor: Visitor, locked: Running, tmp_path: Path) -> None:
    visit = visitor(locked, faults=True, permissions=["clipboard-read", "clipboard-write"])
    dialog = visit.page.get_by_role("dialog")
    field = dialog.get_by_label("API key")
    expect(dialog).to_contain_text("requires an API key")
    visit.page.keyboard.press("Escape")  # a dialog that is closed without a key asks again
    expect(dialog).to_be_visible()
    field.fill("half a k")
    visit.page.keyboard.press("Escape")
    expect(dialog).to_be_visible()
    for key in ("wrong", "käse", "鍵"):  # no header may have the last two as they are
        field.fill(key)
        with visit.page.expect_response(lambda response: response.status == 401):
            visit.page.keyboard.press("Enter")
        expect(dialog.get_by_role("alert")).to_contain_text("does not accept this key")
        expect(field).to_be_empty()
    expect(field).to_have_accessible_description("The service does not accept this key.")
    field.fill("sesame")
    visit.page.keyboard.press("Enter")
    visit.wait_for_image(visit.start)
    expect(dialog).to_be_hidden()
    assert not [headers for headers in visit.sent if "half" in headers.get("authorization", "")]

    visit.page.reload()
    visit.wait_for_image(visit.start)
    expect(dialog).to_be_hidden()
    visit.show("Space")
    expect(visit.page.get_by_role("button", name="Next")).to_be_enabled()
    visit.page.locator("#walk").get_by_role("button", name="Copy as curl").click()
    expect(visit.page.locator("#message")).to_contain_text("contains your API key")
    command = visit.page.evaluate("navigator.clipboard.readText()")
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True, capture_output=True)
    assert np.array_equal(read_rgb((tmp_path / "walk.png").read_bytes()), visit.decoded(visit.start))
    assert visit.page.evaluate("localStorage.length") == 0
    assert "sesame" not in visit.url


def test_a_busy_service_and_a_lost_connection_are_retried(visitor: Visitor, served: Running) -> None:
    message_of_busy = "busy; retrying"
    served.admission.status = "starting"
    try:
        visit = visitor(served, faults=True)
        message = visit.page.locator("#message")
        expect(message).to_contain_text(message_of_busy)
        served.admission.status = "ok"
        visit.wait_for_image(visit.start)

        served.admission.status = "draining"
        visit.slide(0, 1)
        expect(message).to_contain_text(message_of_busy)
        visit.slide(0, 1.5)
    finally:
        served.admission.status = "ok"
    visit.wait_for_image([1.5, *visit.start[1:]])
    expect(message).to_be_empty()

    visit.page.context.set_offline(True)
    visit.slide(0, 1)
    expect(message).to_contain_text("No connection; retrying")
    visit.page.context.set_offline(False)
    visit.wait_for_image([1, *visit.start[1:]])
    expect(message).to_be_empty()


def test_a_date_to_retry_after_is_not_retried_at_once(visitor: Visitor, served: Running) -> None:
    visit = visitor(served, faults=True)
    visit.wait_for_image(visit.start)
    visit.page.wait_for_load_state("networkidle")  # the success of any other request hides the message
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
    visit.wait_for_image([1, *visit.start[1:]])


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


def test_a_connection_that_is_lost_within_an_answer_is_retried(visitor: Visitor, served: Running) -> None:
    visit = visitor(served, "about:blank")
    visit.page.add_init_script(f"({LOSE})()")
    visit.page.goto("/")
    visit.wait_for_image(visit.start)
    visit.show("Sample")
    sheet = tiles(read_rgb(served.client.get("/sample?n=24&seed=0&columns=24").content), 28, 28)
    wait_until(lambda: np.array_equal(pixels(visit.page.locator("#sheet canvas").last), sheet[-1]))
    expect(visit.page.locator("#message")).to_be_empty()


def test_a_file_that_cannot_be_fetched_is_fetched_again(visitor: Visitor, served: Running) -> None:
    visit = visitor(served, "about:blank", faults=True)
    failures = {"views.js": 2, "strokes.js": 2, "scatter.js": 2}

    def fail(route: Route) -> None:
        file = route.request.url.rpartition("/")[2]
        failures[file] -= 1
        if failures[file] < 0:
            route.continue_()
        else:
            route.abort()

    for file in failures:
        visit.page.route(f"**/{file}", fail)
    visit.page.goto("/")
    expect(visit.show("Draw")).to_be_visible()
    expect(visit.page.locator("#message")).to_be_empty()
    panel = visit.show("Space")
    expect(panel.locator("#legend button")).to_have_count(10)
    assert panel.get_by_label("Go to a test image of").locator("option").count() == 10
    expect(panel).to_be_visible()
    expect(visit.page.locator("#message")).to_be_empty()
    assert max(failures.values()) < 0


def test_a_slow_network_is_enough(visitor: Visitor, served: Running) -> None:
    visit = visitor(served, "about:blank")
    network = visit.page.context.new_cdp_session(visit.page)
    network.send("Network.enable")
    slow = {"offline": False, "latency": 300, "downloadThroughput": 50_000, "uploadThroughput": 20_000}
    network.send("Network.emulateNetworkConditions", slow)
    visit.page.goto("/")
    visit.wait_for_image(visit.start)
    for step in range(1, 9):
        visit.slide(0, step / 4)
    visit.wait_for_image([2, *visit.start[1:]])
    view = visit.show("Between")
    view.get_by_label("Steps").fill("6")
    view.get_by_label("Steps").press("Enter")
    wait_until(lambda: view.locator(".sheet canvas").count() == 6)
    question = {"from": visit.pinned("a"), "to": visit.pinned("b"), "steps": 6}
    sheet = tiles(read_rgb(served.client.post("/interpolate", json=question).content), 28, 28)
    wait_until(lambda: all(map(np.array_equal, map(pixels, view.locator(".sheet canvas").all()), sheet)))
    expect(visit.page.locator("#message")).to_be_empty()


class Slow(Engine):
    """Takes a second to draw, and then fails if `fails`."""

    fails = False

    def __init__(self, engine: Engine) -> None:
        self.config = engine.config
        self._engine = engine

    async def decode_scanlines(self, z: FloatArray, **options: Any) -> ByteArray:
        await asyncio.sleep(1)
        if self.fails:
            raise InvalidInput(Problem("body", "", "Nothing can be drawn of it."))
        return await self._engine.decode_scanlines(z, **options)


def test_a_pending_image_is_marked(visitor: Visitor, served: Running) -> None:
    visit = visitor(served, faults=True)
    visit.wait_for_image(visit.start)
    expect(visit.page.locator("#reconstruction-badge")).to_be_visible()
    frame = visit.page.locator("#frame")
    play = visit.page.locator("#play")
    assert frame.get_attribute("class") == "frame"
    with swapped(served, Slow) as engine:
        visit.slide(0, 1)
        expect(frame).to_have_class("frame pending")
        expect(frame).to_have_class("frame")
        play.click()
        expect(frame).to_have_class("frame pending")
        play.click()
        expect(frame).to_have_class("frame")
        engine.fails = True
        visit.slide(0, 1.5)
        expect(frame).to_have_class("frame pending")
        expect(visit.page.locator("#message")).to_contain_text("Nothing can be drawn of it")
        expect(frame).to_have_class("frame")


def test_the_reason_of_a_refusal_is_shown(visitor: Visitor, served: Running) -> None:
    visit = visitor(served, faults=True)

    def ask_for_more(route: Route) -> None:
        route.continue_(url=route.request.url.replace("n=24&", "n=10001&"))

    visit.page.route("**/sample?n=24&*", ask_for_more)
    visit.show("Sample")
    expect(visit.page.locator("#message")).to_contain_text("The request asks for 10001 items")


def test_no_answer_is_taken_for_html(visitor: Visitor, served: Running) -> None:
    visit = visitor(served, "about:blank", faults=True)
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
