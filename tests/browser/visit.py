"""A page in a browser, seen as a person sees it."""

from __future__ import annotations

import io
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import numpy as np
from axe_playwright_python.base import AXE_SCRIPT
from axe_playwright_python.sync_playwright import Axe
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import ConsoleMessage, FilePayload, Locator, Page, Request, Route, expect

from service.inference.engine import Engine
from tests.service.pictures import Bytes
from tests.service.running import Running

PATIENCE_S = 20
"""For a machine that has much else to do."""
URL_S = 0.4
"""Within this time the page writes its state into its URL."""


E = TypeVar("E", bound=Engine)


class Visit:
    """A page, with what it asked for and what it complained of."""

    def __init__(self, page: Page, service: Running) -> None:
        self.page = page
        self.service = service
        self.asked: list[str] = []
        self.sent: list[dict[str, str]] = []
        self.complaints: list[str] = []
        page.on("request", self._see)
        page.on("requestfailed", self._see_failure)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._hear)

    def _see(self, request: Request) -> None:
        self.asked.append(request.url)
        self.sent.append(request.headers)

    def _see_failure(self, request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":  # by going to another page
            self.complaints.append(f"{request.url}: {request.failure}")

    def _hear(self, said: ConsoleMessage) -> None:
        if said.type == "error":
            self.complaints.append(said.text)

    def open(self, path: str, *, wait: bool = True) -> None:
        """Go to a path; where it is the page's, `wait` until its views are loaded, the example in Draw too."""
        self.page.goto(path)
        if wait and urlsplit(path).path == "/":
            expect(self.page.locator("#views")).to_be_visible()
            if self.page.locator("#draw").is_visible():
                expect(self.page.locator("#reconstruction-badge")).to_be_visible()

    @cached_property
    def start(self) -> list[float]:
        """The latent that the page shows first."""
        get = self.service.client.get
        spread = get("/web/spread.json").json()
        return list(spread["start"]) if spread else [0] * get("/model").json()["latent_dim"]

    def assert_sound(self) -> None:
        """No request has left the service, and none has failed; the console has no errors."""
        assert self.asked
        assert not [url for url in self.asked if not url.startswith((origin(self.service), "blob:", "data:"))]
        assert not self.complaints, self.complaints

    @property
    def z(self) -> list[float]:
        """The latent that the URL tells, once the page has written what it shows."""
        before = ""
        while before != self.url or "z=" not in before:
            before = self.url
            time.sleep(URL_S)
        return _latent(before)

    def pinned(self, end: str) -> list[float]:
        """The latent of `a` or `b` that the URL tells, once it does."""
        wait_until(lambda: f"&{end}=" in self.url)
        return _latent(self.url, end)

    @property
    def url(self) -> str:
        """As it is at this moment."""
        url: str = self.page.evaluate("location.href")
        return url

    def decoded(self, z: Any) -> Bytes:
        """What the service draws for a latent, (H, W, 3)."""
        return read_rgb(self.service.client.post("/decode", json=z).content)

    def wait_for_image(self, z: Any) -> None:
        """Until the page shows the image of `z`."""
        expected = self.decoded(z)
        wait_until(lambda: np.array_equal(pixels(self.page.locator("#image")), expected))

    def wait_for_z(self, near: Any) -> None:
        """Until the sliders, and the URL, are there."""
        wait_until(lambda: "z=" in self.url and np.allclose(_latent(self.url), near, atol=1e-4))

    def stop_the_clock(self) -> None:
        """From here on the page's time goes on by `sliders_at_times` alone; this holds for the whole context."""
        self.page.clock.install()
        self.page.clock.pause_at(time.time() + 60)

    def sliders_at_times(self, count: int, milliseconds: int) -> list[list[float]]:
        """What the sliders show, so often, so far apart in the page's time."""
        read = "[...document.querySelectorAll('#sliders input')].map(slider => slider.valueAsNumber)"
        found: list[list[float]] = []
        for _ in range(count):
            self.page.clock.run_for(milliseconds)
            found.append(self.page.evaluate(read))
        return found

    def hold(self, pattern: str) -> Held:
        """Requests of these URLs wait until they are released."""
        held = Held(self.page)
        self.page.route(pattern, held.hold)
        return held

    def slide(self, index: int, value: float) -> None:
        self.page.locator("#sliders input").nth(index).fill(str(value))

    def show(self, view: str) -> Locator:
        """Choose a view by its tab."""
        self.page.get_by_role("tab", name=view).click()
        return self.page.get_by_role("tabpanel", name=view)


@dataclass
class Held:
    """Requests that are not sent yet."""

    page: Page
    routes: list[Route] = field(default_factory=list)

    def hold(self, route: Route) -> None:
        self.routes.append(route)

    def wait(self) -> None:
        """Until there is one."""

        def is_there() -> bool:
            self.page.evaluate("0")  # while it is asked for something, playwright hears what the page does
            return bool(self.routes)

        wait_until(is_there)

    def release(self) -> None:
        """Send those that wait, and wait until they have been answered."""
        for route in self.routes:
            route.continue_()
            answer = route.request.response()
            assert answer
            answer.finished()
        self.page.unroute_all()


def origin(service: Running) -> str:
    return f"http://127.0.0.1:{service.port}"


def _latent(url: str, name: str = "z") -> list[float]:
    fields = parse_qs(urlsplit(url).fragment)
    return [float(value) for value in fields[name][0].split(",")]


def pixels(canvas: Locator) -> Bytes:
    """Of a canvas, (H, W, 3)."""
    return pixels_with_alpha(canvas)[..., :3]


def pixels_with_alpha(canvas: Locator) -> Bytes:
    """Of a canvas, (H, W, 4)."""
    url: str = canvas.evaluate("canvas => canvas.toDataURL()")
    with Image.open(io.BytesIO(b64decode(url.partition(",")[2]))) as image:
        return np.asarray(image.convert("RGBA"), np.uint8)


def given(picture: bytes) -> FilePayload:
    """A PNG as a person chooses it."""
    return {"name": "picture.png", "mimeType": "image/png", "buffer": picture}


def read_rgb(picture: bytes) -> Bytes:
    with Image.open(io.BytesIO(picture)) as image:
        return np.asarray(image.convert("RGB"), np.uint8)


def tiles(sheet: Bytes, height: int, width: int) -> list[Bytes]:
    """The images of a sheet, row by row."""
    rows, columns = len(sheet) // height, sheet.shape[1] // width
    cut = sheet.reshape(rows, height, columns, width, 3).swapaxes(1, 2)
    return list(cut.reshape(-1, height, width, 3))


def assert_accessible(page: Page) -> None:
    """Axe finds no violation, once all transitions have ended."""
    wait_until(lambda: page.evaluate("document.getAnimations().length") == 0)
    found = Axe("" if page.evaluate("'axe' in globalThis") else AXE_SCRIPT).run(page)
    assert not found.response["violations"], found.generate_report()


@contextmanager
def swapped(service: Running, make: Callable[[Engine], E]) -> Iterator[E]:
    """Within it, the service computes with `make(engine)`."""
    loaded = service.context
    service.swap_engine(make)
    try:
        yield service.context.engine
    finally:
        service.swap_context(loaded)


def nearest_labels(service: Running, z: Any, count: int = 10) -> NDArray[np.int64]:
    """Labels of the test latents about a latent."""
    latents = service.client.get("/latents").json()
    distance = np.linalg.norm(np.array(latents["mean"]) - np.array(z), axis=1)
    return np.array(latents["label"])[np.argsort(distance)[:count]]


def wait_until(happened: Callable[[], bool], limit: float = PATIENCE_S) -> None:
    give_up = time.monotonic() + limit
    while not happened():
        if time.monotonic() > give_up:
            raise AssertionError(f"Not within {limit:g} s.")
        time.sleep(0.05)
