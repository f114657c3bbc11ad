"""A model whose latents are maps: no sliders, but pictures that are reconstructed, and samples."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

import vae
from tests.browser.conftest import Visitor
from tests.browser.visit import assert_accessible, given, pixels, read_rgb, tiles, wait_until
from tests.service.pictures import picture
from tests.service.running import Running, running
from tests.vae.autoencoder import write_folder

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("models") / "small"
    write_folder(folder)
    with running(checkpoint=folder) as service:
        yield service


def test_maps_have_no_sliders_and_pictures_are_reconstructed(visitor: Visitor, maps: Running) -> None:
    visit = visitor(maps)
    expect(visit.page.locator("#seed")).to_contain_text("seed")
    assert_accessible(visit.page)
    expect(visit.page.locator("#summary")).to_contain_text("latents of 4×16×16, 32×32 in colour")
    expect(visit.page.locator("#walk")).to_contain_text("too many for sliders")
    expect(visit.page.get_by_role("slider")).to_have_count(0)
    for name in ("Play", "Origin", "Pin A", "Pin B"):
        expect(visit.page.get_by_role("button", name=name)).to_have_count(0)
    assert visit.page.get_by_role("tab").all_inner_texts() == ["Draw", "Sample", "About"]
    expect(visit.page.locator("#draw .intro")).not_to_contain_text("sliders", use_inner_text=True)
    with visit.page.expect_download() as saved:
        visit.page.locator("#walk").get_by_role("button", name="Save PNG").click()
    assert read_rgb(saved.value.path().read_bytes()).shape == (480, 480, 3)

    body = picture(Image.new("RGB", (32, 32), (200, 30, 60)))
    visit.page.get_by_label("choose a picture").set_input_files(given(body))
    expected = read_rgb(maps.client.post("/reconstruct", content=body, headers={"content-type": "image/png"}).content)
    for canvas in ("#reconstruction", "#image"):
        wait_until(lambda canvas=canvas: np.array_equal(pixels(visit.page.locator(canvas)), expected))  # type: ignore[misc]
    error = np.sqrt(np.square(expected.astype(float) - (200, 30, 60)).mean())
    expect(visit.page.locator("#verdict")).to_contain_text(f"error is {error:.0f} of 255")
    expect(visit.page.locator("#kl")).to_contain_text("nats")

    about = visit.show("About")
    expect(about).to_contain_text("4×16×16")
    expect(about.locator("#manifold")).to_be_hidden()


def test_a_trained_map_s_reconstruction_is_judged_by_its_loss(visitor: Visitor, tmp_path: Path) -> None:
    checkpoint = tmp_path / "maps.safetensors"
    vae.save(checkpoint, vae.VAE(vae.VAEConfig("resnet", hidden_dim=8, latent_map=(2, 7, 7))), training={}, metrics={})
    with running(checkpoint=checkpoint) as service:
        visit = visitor(service)
        expect(visit.page.locator("#summary")).to_contain_text("latents of 2×7×7, 28×28")
        body = picture(Image.new("L", (28, 28), 30))
        visit.page.get_by_label("choose a picture").set_input_files(given(body))
        expected = read_rgb(
            service.client.post("/reconstruct", content=body, headers={"content-type": "image/png"}).content
        )
        wait_until(lambda: np.array_equal(pixels(visit.page.locator("#reconstruction")), expected))
        expect(visit.page.locator("#verdict")).to_contain_text("loss")


def test_samples_are_shown_large(visitor: Visitor, maps: Running) -> None:
    visit = visitor(maps)
    seed = visit.page.locator("#seed")
    expect(seed).to_contain_text("seed")
    drawn = read_rgb(maps.client.get(f"/sample?n=1&seed={seed.inner_text().split()[1]}").content)
    assert np.array_equal(pixels(visit.page.locator("#image")), drawn)
    view = visit.show("Sample")
    sheet = tiles(read_rgb(maps.client.get("/sample?n=24&seed=0&columns=24").content), 32, 32)
    wait_until(lambda: all(map(np.array_equal, map(pixels, view.locator(".sheet canvas").all()), sheet)))
    view.get_by_role("button", name="Sample 6").click()
    wait_until(lambda: np.array_equal(pixels(visit.page.locator("#image")), sheet[5]))
    expect(view.get_by_role("button", name="Sample 6")).to_have_attribute("aria-pressed", "true")
    expect(seed).to_be_empty()
    visit.page.keyboard.press("r")
    expect(seed).to_contain_text("seed")
