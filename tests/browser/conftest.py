"""A real Chromium, and real services for it to visit."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from playwright.sync_api import Browser, BrowserContext, Error, expect, sync_playwright

import vae
from service.settings import BUNDLED
from tests.browser.visit import PATIENCE_S, Visit, origin
from tests.service.running import Running, running
from training.metrics.calibration import calibrate
from vae import VAE, LatentSet, VAEConfig
from vae.metadata import DEFAULT_FIT, Fit

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
Visitor = Callable[..., Visit]

expect.set_options(timeout=1000 * PATIENCE_S)


def launch() -> Iterator[Browser]:
    """The installed Chromium; without one, Playwright's own."""
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        except Error:
            if "CI" in os.environ:
                raise
            pytest.skip("There is no Chromium here: install one (make programs), or set CI to see why.")
        yield browser
        browser.close()


chromium = pytest.fixture(scope="package")(launch)
"""One browser for this folder. Playwright's event loop runs until it ends, so it must not outlive these tests."""

browser = pytest.fixture(scope="module")(launch)
"""For a test of another folder, whose other modules run event loops of their own."""


@pytest.fixture(scope="session")
def served() -> Iterator[Running]:
    """The service with its default settings."""
    with running() as service:
        yield service


@pytest.fixture(scope="session")
def locked() -> Iterator[Running]:
    """The service with an API key; its client sends it."""
    with running(api_keys=("sesame",)) as service:
        service.client.headers["x-api-key"] = "sesame"
        yield service


@pytest.fixture(scope="package")
def context(chromium: Browser, served: Running) -> Iterator[BrowserContext]:
    """What the visits of `visit` share: the cache, and the permission to use the clipboard."""
    with chromium.new_context(base_url=origin(served), permissions=["clipboard-read", "clipboard-write"]) as context:
        yield context


@pytest.fixture
def visitor(chromium: Browser) -> Iterator[Visitor]:
    """Opens the page of a service in a context of its own and waits until it is loaded, unless it has `faults`.

    In the end no request may have left its origin, and none may have failed, unless there were `faults`.
    """
    with ExitStack() as stack:

        def open_page(service: Running, path: str = "/", *, faults: bool = False, **options: Any) -> Visit:
            context = stack.enter_context(chromium.new_context(base_url=origin(service), **options))
            visit = Visit(context.new_page(), service)
            if not faults:
                stack.callback(visit.assert_sound)
            visit.open(path, wait=not faults)
            return visit

        yield open_page


@pytest.fixture
def visit(context: BrowserContext, served: Running) -> Iterator[Visit]:
    """The page of the default service, loaded."""
    visit = Visit(context.new_page(), served)
    visit.open("/")
    yield visit
    visit.page.close()
    visit.assert_sound()


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
def calibrated(tmp_path_factory: pytest.TempPathFactory, images: NDArray[np.uint8]) -> Iterator[Running]:
    """The bundled model with its latents, calibrated by −ELBO on the first 200 test digits."""
    bundled, latents = vae.load(BUNDLED), LatentSet.load(BUNDLED, vae.load(BUNDLED).sha256)
    path = tmp_path_factory.mktemp("calibrated") / "mnist.safetensors"
    calibration = calibrate(bundled.model, torch.from_numpy(images).unsqueeze(1), "neg_elbo")
    vae.save(path, bundled.model, training=bundled.training, metrics=bundled.metrics, calibration=calibration)
    assert latents
    latents.save(path, vae.load(path).sha256)
    with running(checkpoint=path) as service:
        yield service


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
        latents = LatentSet(torch.randn(300, config.latent_dim).numpy(), np.arange(300) % 3)
    vae.save(path, model, training={"pictures": {"fit": fit}}, metrics={})
    latents.save(path, vae.load(path).sha256)
    with running(checkpoint=path) as service:
        yield service
