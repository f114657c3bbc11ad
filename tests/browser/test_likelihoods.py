"""A model of another likelihood: its loss is no cross-entropy, and is not judged as one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from PIL import Image
from playwright.sync_api import expect

import vae
from tests.browser.conftest import Visitor
from tests.browser.visit import given
from tests.service.pictures import picture
from tests.service.running import Running, running

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def logistic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    path = tmp_path_factory.mktemp("logistic") / "logistic.safetensors"
    model = vae.VAE(vae.VAEConfig(hidden_dim=16, likelihood="logistic"))
    vae.save(path, model, training={}, metrics={"test_neg_elbo": 1068.0, "test_bits_per_dim": 1.965})
    with running(checkpoint=path) as service:
        yield service


def test_bits_per_dim_are_shown_and_no_note_on_grey_pixels(visitor: Visitor, logistic: Running) -> None:
    about = visitor(logistic).show("About")
    expect(about.locator("#properties")).to_contain_text("logistic")
    expect(about.get_by_role("row", name="Negative ELBO, bits/dim")).to_contain_text("1.965")
    expect(about.get_by_role("row", name="Negative ELBO, nats")).not_to_contain_text("*")
    expect(about.locator("#metrics-note")).to_be_hidden()


def test_the_loss_is_told_but_not_judged(visitor: Visitor, logistic: Running) -> None:
    visit = visitor(logistic)
    body = picture(Image.new("L", (28, 28), 90))
    visit.page.get_by_label("choose a picture").set_input_files(given(body))
    headers = {"content-type": "image/png", "accept": "application/json"}
    loss = logistic.client.post("/reconstruct", content=body, headers=headers).json()["reconstruction_loss"]
    expect(visit.page.locator("#verdict")).to_have_text(f"Reconstructed: the loss is {loss:.1f} nats.")
