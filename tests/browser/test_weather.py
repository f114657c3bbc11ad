"""What the page does when the service does not answer as it should: keys, 503, no connection, a slow network."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from playwright.sync_api import Route, expect

from service.engine import ByteArray, Engine, FloatArray
from tests.browser.conftest import Visitor
from tests.browser.visit import wait_until
from tests.service.running import Running, running

pytestmark = pytest.mark.browser


def test_a_key_is_asked_for_once_and_kept_for_the_tab(visitor: Visitor) -> None:
    with running(api_keys=("sesame", "käse")) as service:
        visit = visitor(service, faults=True, permissions=["clipboard-read", "clipboard-write"])
        dialog = visit.page.get_by_role("dialog")
        expect(dialog).to_contain_text("asks for a key")
        service.client.headers["x-api-key"] = "sesame"
        dialog.get_by_label("API key").fill("wrong")
        visit.page.keyboard.press("Enter")
        expect(dialog).to_contain_text("not one of this service's")
        dialog.get_by_label("API key").fill("sesame")
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
        assert "-H 'Authorization: Bearer sesame'" in visit.page.evaluate("navigator.clipboard.readText()")
        assert visit.page.evaluate("localStorage.length") == 0
        assert "sesame" not in visit.url


def test_a_dialog_that_is_closed_empty_asks_again(visitor: Visitor) -> None:
    with running(api_keys=("sesame",)) as service:
        visit = visitor(service, faults=True)
        expect(visit.page.get_by_role("dialog")).to_be_visible()
        visit.page.keyboard.press("Escape")
        expect(visit.page.get_by_role("dialog")).to_be_visible()


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


class Slow(Engine):
    """Takes a second to draw."""

    def __init__(self, engine: Engine) -> None:
        self.config = engine.config
        self._engine = engine

    async def draw(self, z: FloatArray, **options: Any) -> ByteArray:
        await asyncio.sleep(1)
        return await self._engine.draw(z, **options)


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


def test_what_is_refused_is_said(visitor: Visitor) -> None:
    with running(batch_limit=10) as service:
        visit = visitor(service, faults=True)
        visit.show("Sample")
        expect(visit.page.locator("#message")).to_contain_text("24 items are asked for in one request")


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
