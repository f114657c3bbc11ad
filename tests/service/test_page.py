"""The page and the documentation, in a browser."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Response, expect, sync_playwright

from tests.service.pictures import Bytes, png
from tests.service.running import Running, running

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The one that is installed; without any, Playwright's own."""
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


class Visit:
    """A page, with what it asked for and what it complained of."""

    def __init__(self, page: Page, origin: str) -> None:
        self.page = page
        self.origin = origin
        self.asked: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)

    def leave(self) -> None:
        own = (self.origin, "blob:", "data:")
        assert self.asked
        assert not [url for url in self.asked if not url.startswith(own)]
        assert not self.complaints


@pytest.fixture
def visit(browser: Browser, served: Running) -> Iterator[Visit]:
    """Of the service as it is by default; no request may leave its origin, nothing may fail."""
    origin = f"http://127.0.0.1:{served.port}"
    with browser.new_context(base_url=origin) as context:
        visit = Visit(context.new_page(), origin)
        yield visit
        visit.leave()


def shown(page: Page) -> Bytes:
    """The pixels of the decoded image that the page shows."""
    url = page.locator("#image").get_attribute("src")
    values = page.evaluate("async (url) => [...new Uint8Array(await (await fetch(url)).arrayBuffer())]", url)
    with Image.open(io.BytesIO(bytes(values))) as image:
        return np.asarray(image, np.uint8)


def is_decode(response: Response) -> bool:
    return response.url.endswith("/decode") and response.ok


def set_slider(page: Page, index: int, value: float) -> None:
    """As a hand does it, with the event that follows; waits for the image."""
    before = page.locator("#image").get_attribute("src")
    slider = page.locator("#sliders input[type=range]").nth(index)
    slider.evaluate("(input, value) => { input.value = value; input.dispatchEvent(new Event('input')); }", value)
    expect(page.locator("#image")).not_to_have_attribute("src", before or "")


def test_sliders_move_the_image(visit: Visit, served: Running) -> None:
    page = visit.page
    page.goto("/")
    expect(page.locator("#sliders input[type=range]")).to_have_count(3)
    expect(page.locator("#image")).to_have_attribute("src", re.compile("^blob:"))

    def decoded(z: list[float]) -> Bytes:
        with Image.open(io.BytesIO(served.client.post("/decode", json=z).content)) as image:
            return np.asarray(image, np.uint8)

    assert np.array_equal(shown(page), decoded([0, 0, 0]))
    z = [0.0, 0.0, 0.0]
    for index, value in ((0, 1.5), (1, -2), (2, 0.75)):
        set_slider(page, index, value)
        z[index] = value
        assert np.array_equal(shown(page), decoded(z))
        expect(page.locator("#sliders output").nth(index)).to_have_text(f"{value:.2f}")
    expect(page.locator("#message")).to_be_empty()


def test_sliders_can_be_moved_by_keyboard(visit: Visit) -> None:
    page = visit.page
    page.goto("/")
    slider = page.get_by_role("slider", name="z1")
    with page.expect_response(is_decode):
        slider.press("End")
    assert slider.input_value() == "3"
    with page.expect_response(is_decode):
        slider.press("ArrowLeft")
    assert slider.input_value() == "2.99"


def test_page_leads_to_the_documentation(visit: Visit) -> None:
    visit.page.goto("/")
    visit.page.get_by_role("link", name="API documentation").click()
    expect(visit.page.locator("#operations-latent_space-sample_sample_get")).to_be_visible()


def test_page_says_what_went_wrong(browser: Browser) -> None:
    with running(api_keys=("key",)) as service, browser.new_context() as context:
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{service.port}/")
        expect(page.locator("#message")).to_contain_text("This service asks for an API key.")


def test_documentation_is_tried_out(visit: Visit) -> None:
    page = visit.page
    page.goto("/docs")
    for name, method in (("sample_sample_get", "GET"), ("decode_decode_post", "POST"), ("model_model_get", "GET")):
        tag = "model" if name.startswith("model") else "latent_space"
        operation = page.locator(f"#operations-{tag}-{name}")
        operation.locator(".opblock-summary-control").click()
        path = f"/{name.partition('_')[0]}"
        with page.expect_response(lambda response, path=path: path in response.url) as answer:  # type: ignore[misc]
            operation.get_by_role("button", name="Execute").click()
        assert answer.value.status == 200, answer.value.text()
        assert answer.value.request.method == method
        expect(operation.locator(".live-responses-table .response-col_status").last).to_contain_text("200")
    expect(page.locator("#operations-latent_space-sample_sample_get .live-responses-table img")).to_be_visible()


def test_a_picture_is_sent_from_the_documentation(visit: Visit, images: Bytes, tmp_path: Path) -> None:
    file = tmp_path / "digit.png"
    file.write_bytes(png(images[0]))
    page = visit.page
    page.goto("/docs")
    operation = page.locator("#operations-latent_space-encode_encode_post")
    operation.locator(".opblock-summary-control").click()
    operation.locator(".opblock-section-request-body select").first.select_option("image/png")
    operation.locator("input[type=file]").set_input_files(file)
    operation.get_by_role("button", name="Execute").click()
    expect(operation.locator(".live-responses-table .response-col_status").last).to_contain_text("200")
    expect(operation.locator(".live-responses-table .highlight-code").first).to_contain_text("log_variance")
