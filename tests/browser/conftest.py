"""A real Chromium, and real services for it to visit."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch
from playwright.sync_api import Browser, Error, expect, sync_playwright

import vae
from tests.browser.visit import PATIENCE_S, Visit, origin
from tests.service.running import Running, running
from vae import VAE, LatentSet, VAEConfig
from vae.metadata import DEFAULT_FIT, Fit

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
Visitor = Callable[..., Visit]

expect.set_options(timeout=1000 * PATIENCE_S)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The one that is installed; without any, Playwright's own. Its event loop has to end with these tests."""
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        except Error:
            if "CI" in os.environ:
                raise
            pytest.skip("There is no Chromium here: install one (apt-get install chromium), or set CI to see why.")
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def served() -> Iterator[Running]:
    """The service as it is by default."""
    with running() as service:
        yield service


@pytest.fixture
def visitor(browser: Browser) -> Iterator[Visitor]:
    """Opens the page of a service, and waits until all is there, unless it has `faults`.

    In the end no request may have left its origin, and nothing may have failed.
    """
    with ExitStack() as stack:
        visits: list[Visit] = []

        def open_page(service: Running, path: str = "/", *, faults: bool = False, **options: Any) -> Visit:
            context = stack.enter_context(browser.new_context(base_url=origin(service), **options))
            visit = Visit(context.new_page(), service)
            if not faults:
                visits.append(visit)
            visit.page.goto(path)
            if not faults and urlsplit(path).path == "/":
                expect(visit.page.locator("#views")).to_be_visible()
            return visit

        yield open_page
        for visit in visits:
            visit.leave()


@pytest.fixture
def visit(visitor: Visitor, served: Running) -> Visit:
    return visitor(served, permissions=["clipboard-read", "clipboard-write"])


@pytest.fixture(scope="session")
def colour(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Of 3×64×64 and eight latent dimensions, with 300 latents of three labels; its weights are random."""
    yield from _serve(tmp_path_factory.mktemp("colour"), VAEConfig("conv", (3, 64, 64), hidden_dim=16, latent_dim=8))


@pytest.fixture(scope="session")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Of two latent dimensions and an image that is no square; pictures of other proportions are cut."""
    config = VAEConfig(image_shape=(1, 20, 32), hidden_dim=16, latent_dim=2)
    yield from _serve(tmp_path_factory.mktemp("flat"), config, fit="cover")


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Without latents, figures and much else."""
    path = tmp_path_factory.mktemp("alone") / "alone.safetensors"
    vae.save(path, VAE(VAEConfig(hidden_dim=16)), training={}, metrics={})
    with running(checkpoint=path) as service:
        yield service


def _serve(folder: Path, config: VAEConfig, fit: Fit = DEFAULT_FIT) -> Iterator[Running]:
    path = folder / "random.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VAE(config)
        with torch.no_grad():  # far enough from each other that two latents have two images
            for parameter in model.parameters():
                parameter.mul_(3)
        latents = LatentSet(torch.randn(300, config.latent_dim), torch.arange(300) % 3)
    vae.save(path, model, training={"pictures": {"fit": fit}}, metrics={})
    latents.save(path, vae.load(path).sha256)
    with running(checkpoint=path) as service:
        yield service
