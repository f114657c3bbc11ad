"""Between, Sample, About, and what each view exports."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.browser.conftest import Visitor
from tests.browser.test_draw import box_of, verdict
from tests.browser.visit import Visit, given, pixels, read_rgb, tiles, wait_until
from tests.service.pictures import png, read_png
from tests.service.running import Running

pytestmark = pytest.mark.browser

LISTEN = """() => {
  const message = document.querySelector("#message");
  message.textContent = window.messageText = "";
  const remember = () => { window.messageText = message.textContent || messageText };
  new MutationObserver(remember).observe(message, { childList: true });
}"""
"""From here on `messageText` is the last message, even after it has gone."""


def test_between_two_pins(visit: Visit) -> None:
    visit.show("Sample").get_by_role("button", name="Sample 3", exact=True).click()
    visit.wait_for_image(visit.z)
    start = visit.z
    visit.page.get_by_role("button", name="Pin A").click()
    visit.show("Draw")
    box = box_of(visit)
    visit.page.mouse.click(box["x"] + 20, box["y"] + 20)
    verdict(visit)
    visit.page.get_by_role("button", name="Pin B").click()
    end = visit.z
    assert visit.pinned("a") == start
    assert visit.pinned("b") == end != start
    view = visit.show("Between")
    strip = view.locator(".sheet canvas")
    expect(strip).to_have_count(12)
    view.get_by_label("Steps").fill("9")
    view.get_by_label("Steps").press("Enter")
    view.get_by_label("Path").select_option("spherical")
    question = {"from": start, "to": end, "steps": 9, "method": "spherical"}
    expected = visit.service.client.post("/interpolate", json=question, headers={"accept": "application/json"}).json()
    sheet = tiles(read_rgb(visit.service.client.post("/interpolate", json=question).content), 28, 28)
    wait_until(lambda: strip.count() == 9 and all(map(np.array_equal, map(pixels, strip.all()), sheet)))
    assert np.array_equal(pixels(view.locator("#end-a canvas")), sheet[0])
    assert np.array_equal(pixels(view.locator("#end-b canvas")), sheet[8])

    view.get_by_role("button", name="Step 4 of 9").click()
    visit.wait_for_z(expected["z"][3])
    assert view.get_by_label("Position").input_value() == "3"
    view.get_by_role("button", name="Step 4 of 9").press("ArrowRight")
    visit.page.keyboard.press("Enter")
    visit.wait_for_z(expected["z"][4])

    view.get_by_role("button", name="Play", exact=True).click()
    wait_until(lambda: view.get_by_label("Position").input_value() == "8")
    wait_until(lambda: view.get_by_label("Position").input_value() == "2")  # and back
    visit.page.locator("#origin").click()
    expect(view.get_by_role("button", name="Play", exact=True)).to_have_attribute("aria-pressed", "false")

    with visit.page.expect_download() as saved:
        view.get_by_role("button", name="Save PNG").click()
    row = read_rgb(saved.value.path().read_bytes())
    assert all(map(np.array_equal, [tile[::5, ::5] for tile in tiles(row, 140, 140)], sheet))
    with visit.page.expect_download() as saved:
        view.get_by_role("button", name="Save animation").click()
    with Image.open(saved.value.path()) as film:
        assert film.format == "PNG"
        assert film.n_frames == 16  # type: ignore[attr-defined]
        for frame, wanted_frame in enumerate([*sheet, *sheet[-2:0:-1]]):
            film.seek(frame)
            assert np.array_equal(np.asarray(film.convert("RGB"))[::5, ::5], wanted_frame)


def test_a_strip_that_is_not_loaded_can_be_used(visit: Visit) -> None:
    held = visit.hold("**/interpolate")
    view = visit.show("Between")
    view.get_by_role("button", name="Step 4 of 12").click()
    view.get_by_label("Position").press("ArrowRight")
    view.get_by_role("button", name="Save animation").click()
    expect(visit.page.locator("#message")).to_contain_text("The images have not been loaded yet")
    held.wait()
    assert visit.z == visit.start
    held.release()
    expect(view.get_by_label("Position")).to_have_attribute("max", "11")
    held = visit.hold("**/interpolate")
    view.get_by_label("Steps").fill("20")
    view.get_by_label("Steps").press("Enter")
    held.wait()
    view.get_by_role("button", name="Step 16 of 20").click()
    assert visit.z == visit.start
    held.release()
    expect(view.get_by_label("Position")).to_have_attribute("max", "19")
    view.get_by_role("button", name="Step 20 of 20").click()
    visit.wait_for_z(visit.pinned("b"))


def test_a_sheet_of_samples(visit: Visit) -> None:
    view = visit.show("Sample")
    for seed, temperature in ((0, 1), (7, 1), (7, 0.5)):
        view.get_by_label("Seed").first.fill(str(seed))
        view.get_by_label("Seed").first.press("Enter")
        view.get_by_label("Temperature").fill(str(temperature))
        answer = visit.service.client.get(f"/sample?n=24&seed={seed}&temperature={temperature}&columns=24")
        sheet = tiles(read_rgb(answer.content), 28, 28)
        samples = view.locator(".sheet canvas")
        wait_until(lambda expected=sheet, found=samples: all(map(np.array_equal, map(pixels, found.all()), expected)))  # type: ignore[misc]
    view.get_by_role("button", name="Sample 6").click()
    headers = {"accept": "application/json"}
    z = visit.service.client.get("/sample?n=24&seed=7&temperature=0.5", headers=headers).json()["z"]
    visit.wait_for_z(z[5])
    visit.wait_for_image(visit.z)
    expect(view.get_by_role("button", name="Sample 6")).to_have_attribute("aria-pressed", "true")
    visit.slide(0, 0)
    expect(view.get_by_role("button", name="Sample 6")).to_have_attribute("aria-pressed", "false")
    view.get_by_role("button", name="Another seed").click()
    expect(view.get_by_label("Seed").first).not_to_have_value("7")


def test_about(visit: Visit) -> None:
    model = visit.service.client.get("/model").json()
    view = visit.show("About")
    for text in (model["sha256"], f"{model['parameters']:,}", "mlp", "28×28", "mnist"):
        expect(view.get_by_text(text).first).to_be_visible()
    expect(view.get_by_role("row", name="Negative ELBO")).to_contain_text(f"{model['figures']['test_neg_elbo']:.1f}")
    expect(view.get_by_role("row", name="Bound on −log p(x), nats *")).to_be_visible()
    expect(view.get_by_text("* Grey pixels are taken for probabilities")).to_be_visible()
    expect(view.get_by_role("link", name="API documentation")).to_have_attribute("href", "docs")
    wait_until(lambda: len(np.unique(pixels(view.locator("#manifold")))) > 50)
    view.get_by_role("link", name="API documentation").click()
    expect(visit.page.locator("#operations-latent_space-sample_sample_get")).to_be_visible()


def test_each_view_is_exported(visit: Visit, images: np.ndarray, tmp_path: Path) -> None:
    def run(view: str) -> bytes:
        visit.page.evaluate(LISTEN)
        visit.page.locator(f"[data-exports={view}]").get_by_role("button", name="Copy as curl").click()
        wait_until(lambda: visit.page.evaluate("messageText") == "Copied.")
        command = visit.page.evaluate("navigator.clipboard.readText()")
        return subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True, capture_output=True).stdout

    def save(view: str) -> np.ndarray:
        with visit.page.expect_download() as saved:
            visit.page.locator(f"[data-exports={view}]").get_by_role("button", name="Save PNG").click()
        assert saved.value.suggested_filename == f"{view}.png"
        return read_rgb(saved.value.path().read_bytes())

    visit.slide(0, 0.5)
    z = [0.5, *visit.start[1:]]
    visit.wait_for_image(z)
    run("walk")
    assert np.array_equal(read_rgb((tmp_path / "walk.png").read_bytes()), visit.decoded(z))
    assert np.array_equal(save("walk")[::17, ::17], visit.decoded(z))

    file = given(png(images[0]))
    visit.page.get_by_label("choose a picture").set_input_files(file)
    expect(visit.page.locator("#verdict")).not_to_be_empty()
    expect(visit.page.locator("#loss")).to_contain_text(f"{json.loads(run('draw'))['reconstruction_loss']:.1f}")
    seen, _ = tiles(save("draw"), 140, 140)
    assert np.array_equal(seen[::5, ::5, 0], images[0])

    visit.show("Between")
    expect(visit.page.locator("#strip canvas")).to_have_count(12)
    run("between")
    steps = tiles(read_rgb((tmp_path / "between.png").read_bytes()), 112, 112)
    wait_until(lambda: np.array_equal(steps[11][::4, ::4], pixels(visit.page.locator("#strip canvas").nth(11))))

    visit.show("Sample")
    expect(visit.page.locator("#sheet canvas")).to_have_count(24)
    run("sample")
    first = tiles(read_rgb((tmp_path / "samples.png").read_bytes()), 112, 112)[0]
    wait_until(lambda: np.array_equal(first[::4, ::4], pixels(visit.page.locator("#sheet canvas").first)))
    assert np.array_equal(tiles(save("sample"), 140, 140)[0][::5, ::5], first[::4, ::4])

    visit.show("Space")
    assert json.loads(run("space")) == visit.service.client.get("/latents").json()

    visit.show("About")
    wait_until(lambda: len(np.unique(pixels(visit.page.locator("#manifold")))) > 50)
    run("about")
    assert np.array_equal(read_rgb((tmp_path / "manifold.png").read_bytes()), save("about"))


def test_without_a_clipboard_the_command_is_shown(visitor: Visitor, served: Running) -> None:
    visit = visitor(served)
    z = json.dumps(visit.start, separators=(",", ":"))
    visit.page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    visit.page.locator("#walk").get_by_role("button", name="Copy as curl").click()
    expect(visit.page.locator("#copy-text")).to_have_value(
        f"curl -H 'Content-Type: application/json' -d '{z}' 'http://127.0.0.1:{served.port}/decode' -o walk.png"
    )


def test_colour_throughout(visitor: Visitor, colour: Running) -> None:
    visit = visitor(colour)
    visit.slide(7, 0.5)
    visit.wait_for_image([*visit.start[:7], 0.5])
    view = visit.show("Sample")
    sheet = tiles(read_rgb(colour.client.get("/sample?n=24&seed=0&columns=24").content), 64, 64)
    wait_until(lambda: all(map(np.array_equal, map(pixels, view.locator(".sheet canvas").all()), sheet)))
    with visit.page.expect_download() as saved:
        visit.page.locator("#walk").get_by_role("button", name="Save PNG").click()
    assert read_png(saved.value.path().read_bytes()).shape[:2] == (448, 448)
    view = visit.show("Between")
    expect(view.locator(".sheet canvas")).to_have_count(12)
    wait_until(lambda: pixels(view.locator(".sheet canvas").last).shape[:2] == (64, 64))
    with visit.page.expect_download() as saved:
        view.get_by_role("button", name="Save animation").click()
    with Image.open(io.BytesIO(saved.value.path().read_bytes())) as film:
        assert film.convert("RGB").size == (128, 128)
        assert np.array_equal(np.asarray(film.convert("RGB"))[::2, ::2], pixels(view.locator(".sheet canvas").first))
