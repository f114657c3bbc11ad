"""The documentation at /docs, used."""

from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.visit import Visit
from tests.service.pictures import Bytes, png

pytestmark = pytest.mark.browser

ICON = "document.querySelector('link[rel*=icon]').href"


def test_documentation_is_tried_out(visit: Visit, images: Bytes, tmp_path: Path) -> None:
    page = visit.page
    icon = page.evaluate(ICON)
    page.goto("/docs")
    assert page.evaluate(ICON) == icon
    assert visit.service.client.get(icon).headers["content-type"].startswith("image/svg+xml")
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

    file = tmp_path / "digit.png"
    file.write_bytes(png(images[0]))
    operation = page.locator("#operations-latent_space-encode_encode_post")
    operation.locator(".opblock-summary-control").click()
    operation.locator(".opblock-section-request-body select").first.select_option("image/png")
    operation.locator("input[type=file]").set_input_files(file)
    operation.get_by_role("button", name="Execute").click()
    expect(operation.locator(".live-responses-table .response-col_status").last).to_contain_text("200")
    expect(operation.locator(".live-responses-table .highlight-code").first).to_contain_text("log_variance")
