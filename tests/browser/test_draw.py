"""Drawing, and pictures from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import FloatRect, expect

import vae
from service.settings import BUNDLED
from tests.browser.conftest import Visitor
from tests.browser.strokes import strokes
from tests.browser.visit import Visit, given, nearest_labels, pixels, pixels_with_alpha, read_rgb, wait_until
from tests.service.pictures import Bytes, picture, png
from tests.service.running import Running, running
from vae import LatentSet

pytestmark = pytest.mark.browser

GIVE = """([bytes, event]) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([new Uint8Array(bytes)], "picture.png", { type: "image/png" }));
    document.body.dispatchEvent(event === "paste"
        ? new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true })
        : new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
}"""


def write(visit: Visit, digit: Bytes) -> None:
    """Write this digit with the mouse."""
    for stroke in strokes(digit):
        draw_line(visit, [*stroke[:-1:2], stroke[-1]])


def draw_line(visit: Visit, points: list[tuple[float, float]]) -> None:
    """Draw a line through points, (x, y) in [0, 1], with the mouse."""
    box = box_of(visit)
    mouse = visit.page.mouse
    for number, (x, y) in enumerate(points):
        mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        if number == 0:
            mouse.down()
    mouse.up()


def verdict(visit: Visit) -> str:
    """Wait for the verdict on the last stroke: a stroke that begins removes the verdict before."""
    found = visit.page.locator("#verdict")
    expect(found).to_have_text(re.compile(r"[a-z]"))
    return found.inner_text()


def clear(visit: Visit) -> None:
    visit.page.get_by_role("button", name="Clear").click()
    expect(visit.page.locator("#verdict")).to_be_empty()


def box_of(visit: Visit) -> FloatRect:
    """The pad's place in the window."""
    pad = visit.page.locator("#pad")
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    assert box
    return box


def test_an_example_is_shown_until_something_is_drawn(visitor: Visitor, served: Running, images: Bytes) -> None:
    visit = visitor(served, "/#view=about")
    visit.show("Draw")
    badges = visit.page.locator("#input-badge, #reconstruction-badge")

    def assert_example() -> None:
        expect(badges.nth(1)).to_be_visible()
        assert badges.all_inner_texts() == ["Example", "Example"]
        sample = pixels(visit.page.locator("#model-input"))
        assert (sample > 200).any()
        answer = served.client.post("/reconstruct", content=png(sample), headers={"content-type": "image/png"})
        assert np.array_equal(pixels(visit.page.locator("#reconstruction")), read_rgb(answer.content))

    assert_example()
    visit.wait_for_image(visit.start)
    visit.page.locator("#draw").get_by_role("button", name="Save PNG").click()
    expect(visit.page.locator("#message")).to_have_text("Draw something first.")
    visit.page.get_by_label("choose a picture").set_input_files(given(png(images[0])))
    verdict(visit)
    expect(badges.nth(0)).to_be_hidden()
    expect(badges.nth(1)).to_be_hidden()
    assert np.array_equal(pixels(visit.page.locator("#model-input"))[..., 0], images[0])
    clear(visit)
    assert_example()


def test_digits_that_are_drawn_are_encoded_near_their_class(
    visit: Visit, images: Bytes, labels: NDArray[np.int64]
) -> None:
    mean = np.array(visit.service.client.get("/latents").json()["mean"])
    references = [np.sort(np.linalg.norm(mean - mean[row], axis=1))[10] for row in range(0, len(mean), 10)]
    found = 0
    for digit, label in zip(images[:5], labels[:5], strict=True):
        write(visit, digit)
        text = verdict(visit)
        percent = re.match(r"(?:Very unusual|Unusual|Usual): .*?\b(\d+) % of the test set", text)
        assert percent
        distance = np.sort(np.linalg.norm(mean - visit.z, axis=1))[9]
        assert int(percent[1]) == pytest.approx(100 * np.mean(np.array(references) > distance), abs=1)
        among = list(nearest_labels(visit.service, visit.z))
        found += among.count(label) >= 6 and f"labelled {label}" in text
        visit.wait_for_image(visit.z)
        assert pixels(visit.page.locator("#pad")).any()
        clear(visit)
        expect(visit.page.locator("#loss")).to_have_text("–")
    assert found >= 4  # nine in ten of the test set itself are: the model has three dimensions


def test_what_is_drawn_is_what_is_sent(visit: Visit, images: Bytes) -> None:
    write(visit, images[0])
    assert verdict(visit).startswith("Usual")
    seen = pixels(visit.page.locator("#model-input"))
    assert seen.shape == (28, 28, 3)
    rows, columns = np.nonzero(seen[..., 0] > 60)
    assert 17 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 22
    weights = seen[..., 0].astype(float)
    for axis in (0, 1):
        centre = (weights.sum(1 - axis) * (np.arange(28) + 0.5)).sum() / weights.sum()
        assert centre == pytest.approx(14, abs=0.2)
    headers = {"content-type": "image/png", "accept": "application/json"}
    found = visit.service.client.post("/reconstruct", content=png(seen), headers=headers).json()
    visit.wait_for_z(found["mean"])
    drawn = np.round(255 * np.array(found["pixels"][0]))
    assert np.abs(pixels(visit.page.locator("#reconstruction"))[..., 0] - drawn).max() <= 1
    expect(visit.page.locator("#loss")).to_contain_text(f"{found['reconstruction_loss']:.1f} nats")
    expect(visit.page.locator("#kl")).to_contain_text(f"{found['kl_divergence']:.1f} nats")

    box = box_of(visit)
    visit.page.mouse.move(box["x"] + 20, box["y"] + 20)
    visit.page.mouse.down()
    expect(visit.page.locator("#verdict")).to_be_empty()
    visit.page.mouse.up()
    verdict(visit)
    assert not np.array_equal(pixels(visit.page.locator("#model-input")), seen)
    visit.page.get_by_role("button", name="Undo").click()
    wait_until(lambda: np.array_equal(pixels(visit.page.locator("#model-input")), seen))

    visit.page.emulate_media(color_scheme="light")
    wait_until(lambda: int(pixels(visit.page.locator("#pad")).max()) < 100)
    visit.page.emulate_media(color_scheme="dark")
    wait_until(lambda: int(pixels(visit.page.locator("#pad")).max()) > 200)

    clear(visit)
    for at in (0.1, 0.5, 0.9):  # a grid of three lines in each direction
        draw_line(visit, [(at, 0.1), (at, 0.9)])
        draw_line(visit, [(0.1, at), (0.9, at)])
    assert re.match("(Very u|U)nusual", verdict(visit))


def test_a_calibrated_model_judges_by_its_score(visitor: Visitor, calibrated: Running, images: Bytes) -> None:
    visit = visitor(calibrated)
    write(visit, images[0])
    text = verdict(visit)
    headers = {"content-type": "image/png"}
    seen = png(pixels(visit.page.locator("#model-input")))
    scored = calibrated.client.post("/score", content=seen, headers=headers).json()
    percent = 100 * scored["percentile"]
    assert f"finds {percent:.{0 if percent < 99 else 1}f} % of validation images more usual; " in text
    assert text.startswith("Very unusual" if percent > 99 else "Unusual" if percent > 90 else "Usual")
    assert "nearest test images are labelled" in text
    clear(visit)
    for at in (0.1, 0.5, 0.9):
        draw_line(visit, [(at, 0.1), (at, 0.9)])
        draw_line(visit, [(0.1, at), (0.9, at)])
    assert verdict(visit).startswith("Very unusual: the model finds 100.0 % of validation images more usual")


def test_where_test_images_have_no_labels_the_verdict_names_none(
    visitor: Visitor, images: Bytes, tmp_path: Path
) -> None:
    bundled = vae.load(BUNDLED)
    latents = LatentSet.load(BUNDLED, bundled.sha256)
    assert latents
    path = tmp_path / "unlabelled.safetensors"
    vae.save(path, bundled.model, training={}, metrics={})
    LatentSet(latents.mean, np.full_like(latents.label, -1)).save(path, vae.load(path).sha256)
    with running(checkpoint=path) as service:
        visit = visitor(service)
        write(visit, images[0])
        assert re.fullmatch(r"Usual: \d+ % of the test set are further from their neighbours\.", verdict(visit))


def test_a_finger_and_a_pen_draw_and_a_second_finger_does_not(visitor: Visitor, served: Running) -> None:
    visit = visitor(served, has_touch=True, viewport={"width": 360, "height": 740})
    box = box_of(visit)
    devices = visit.page.context.new_cdp_session(visit.page)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        fingers = [
            {"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"], "id": number}
            for number, (x, y) in enumerate(points)
        ]
        devices.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})

    touch("touchStart", (0.5, 0.2))
    for step in range(1, 12):
        touch("touchMove", (0.5, 0.2 + step / 20))
    touch("touchEnd")
    assert "labelled 1" in verdict(visit)

    clear(visit)
    box = box_of(visit)
    touch("touchStart", (0.3, 0.2))
    touch("touchStart", (0.3, 0.2), (0.8, 0.5))
    for step in range(1, 6):
        touch("touchMove", (0.3, 0.2 + step / 20), (0.8, 0.5 + step / 20))
    touch("touchEnd", (0.3, 0.45))
    for step in range(6, 12):
        touch("touchMove", (0.3, 0.2 + step / 20))
    touch("touchEnd")
    verdict(visit)
    drawn = pixels_with_alpha(visit.page.locator("#pad"))[..., 3] > 0
    rows, columns = np.nonzero(drawn)
    assert columns.max() < 0.4 * len(drawn)
    assert rows.max() > 0.7 * len(drawn)

    clear(visit)
    box = box_of(visit)
    for kind, step in [("mousePressed", 0), *(("mouseMoved", step) for step in range(1, 12)), ("mouseReleased", 11)]:
        place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + (0.2 + step / 20) * box["height"]}
        event = {"type": kind, "pointerType": "pen", "button": "left", "buttons": 1, "clickCount": 1, **place}
        devices.send("Input.dispatchMouseEvent", event)
    assert "labelled 1" in verdict(visit)


def test_keys_draw(visit: Visit) -> None:
    visit.page.locator("#pad").focus()
    keyboard = visit.page.keyboard
    status = visit.page.get_by_role("tabpanel", name="Draw").get_by_role("status").filter(has_text="Pen")
    for key in ("ArrowUp",) * 15 + ("Space",):
        keyboard.press(key)
    expect(status).to_have_text("Pen down, 50 % across, 20 % down.")
    for key in ("ArrowDown",) * 30 + ("Space",):
        keyboard.press(key)
    expect(status).to_have_text("Pen up, 50 % across, 80 % down.")
    assert "labelled 1" in verdict(visit)

    keyboard.press("Delete")
    expect(visit.page.locator("#verdict")).to_be_empty()
    for key in ("Space",) + ("ArrowUp",) * 20 + ("Tab",):  # leaving the pad finishes the stroke
        keyboard.press(key)
    assert "labelled 1" in verdict(visit)


def test_keys_that_draw_nothing_move_no_slider(visit: Visit) -> None:
    box = box_of(visit)
    visit.page.mouse.click(box["x"] + 20, box["y"] + 20)
    verdict(visit)
    asked = [url for url in visit.asked if "/reconstruct" in url]
    visit.slide(0, 0.25)
    pad = visit.page.locator("#pad")
    pad.focus()
    for _ in range(3):
        pad.press("ArrowLeft")
    visit.wait_for_z([0.25, *visit.z[1:]])
    visit.wait_for_image(visit.z)
    assert [url for url in visit.asked if "/reconstruct" in url] == asked
    for _ in range(2):
        visit.page.keyboard.down("Space")
    visit.page.keyboard.up("Space")
    expect(visit.page.get_by_role("status").filter(has_text="Pen down")).to_be_attached()
    back = "pad => pad.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowLeft', altKey: true, cancelable: true}))"
    assert pad.evaluate(back)  # it is left to the browser


def test_late_answers_do_not_undo_a_later_choice(visit: Visit, images: Bytes) -> None:
    held = visit.hold("**/sample?n=1&*")
    visit.page.keyboard.press("r")
    held.wait()
    visit.slide(0, 1.25)
    held.release()
    assert visit.z == [1.25, *visit.start[1:]]
    expect(visit.page.locator("#seed")).to_be_empty()

    held = visit.hold("**/reconstruct")
    visit.page.get_by_label("choose a picture").set_input_files(given(png(images[0])))
    held.wait()
    visit.slide(0, 1.5)
    held.release()
    verdict(visit)
    assert visit.z == [1.5, *visit.start[1:]]

    view = visit.show("Sample")
    wait_until(lambda: pixels(view.locator(".sheet canvas").last).shape == (28, 28, 3))
    held = visit.hold("**/sample?n=6&*")
    view.get_by_role("button", name="Sample 6").click()
    held.wait()
    visit.slide(0, 1.25)
    held.release()
    assert visit.z == [1.25, *visit.start[1:]]
    expect(view.get_by_role("button", name="Sample 6")).to_have_attribute("aria-pressed", "false")


def test_pictures_are_taken_and_dark_ink_on_paper_is_inverted(visit: Visit, images: Bytes) -> None:
    headers = {"content-type": "image/png"}
    cases = [(source, on_paper) for source in ("choose", "paste", "drop") for on_paper in (False, True)]
    for image, (source, on_paper) in zip(images, cases, strict=False):
        digit = 255 - image if on_paper else image
        if source == "choose":
            visit.page.get_by_label("choose a picture").set_input_files(given(png(digit)))
        else:
            visit.page.evaluate(GIVE, [list(png(digit)), source])
        visit.wait_for_z(visit.service.client.post("/encode", content=png(image), headers=headers).json()["mean"])
        invert = visit.page.get_by_label("Invert")
        expect(invert).to_be_checked(checked=on_paper)
        invert.click()
        mean = visit.service.client.post("/encode", content=png(255 - image), headers=headers).json()["mean"]
        visit.wait_for_z(mean)
        assert "test set" in verdict(visit)
        if not on_paper:  # now it is inverted
            visit.page.locator("#pad").focus()
            visit.page.keyboard.press("Space")  # a stroke replaces the picture, and is not inverted
            expect(invert).not_to_be_checked()
    visit.page.evaluate(GIVE, [[1, 2, 3], "drop"])
    expect(visit.page.locator("#message")).to_contain_text("cannot read this file as a picture")


def test_a_colour_model_sees_colour(visitor: Visitor, colour: Running) -> None:
    visit = visitor(colour)
    expect(visit.page.locator("#sliders input")).to_have_count(8)
    wide = Image.new("RGB", (128, 64), (200, 30, 60))
    file = given(picture(wide))
    visit.page.get_by_label("choose a picture").set_input_files(file)
    headers = {"content-type": "image/png"}
    visit.wait_for_z(colour.client.post("/encode", content=picture(wide), headers=headers).json()["mean"])
    seen = pixels(visit.page.locator("#model-input"))
    assert seen.shape == (64, 64, 3)
    assert (seen[20, 10] == (200, 30, 60)).all()
    assert not seen[8, 10].any()
    assert not visit.page.get_by_label("Invert").is_checked()
    visit.wait_for_image(visit.z)
    visit.page.get_by_label("Ink").fill("#00ff00")
    box = visit.page.locator("#pad").bounding_box()
    assert box
    visit.page.mouse.move(box["x"] + 30, box["y"] + 30)
    visit.page.mouse.down()
    visit.page.mouse.move(box["x"] + 90, box["y"] + 90, steps=5)
    visit.page.mouse.up()
    wait_until(lambda: (pixels(visit.page.locator("#model-input")) == (0, 255, 0)).all(-1).any())


def test_a_picture_is_cut_where_training_cut_it(visitor: Visitor, flat: Running) -> None:
    visit = visitor(flat)
    wide = Image.fromarray(np.repeat(np.linspace(0, 120, 64, dtype=np.uint8), 2)[None].repeat(40, 0))
    visit.page.get_by_label("choose a picture").set_input_files(given(picture(wide)))
    headers = {"content-type": "image/png"}
    visit.wait_for_z(flat.client.post("/encode", content=picture(wide), headers=headers).json()["mean"])
    np.testing.assert_array_equal(pixels(visit.page.locator("#model-input"))[0, :, 0], np.asarray(wide)[0, 32:96:2])


def test_without_latents_the_loss_alone_is_judged(visitor: Visitor, alone: Running, images: Bytes) -> None:
    visit = visitor(alone)
    assert visit.z == [0, 0, 0]
    assert [slider.get_attribute("min") for slider in visit.page.locator("#sliders input").all()] == ["-3"] * 3
    write(visit, images[0])
    assert re.match("(Usual|Unusual)", verdict(visit))
    expect(visit.page.get_by_role("tab", name="Space")).to_be_hidden()
