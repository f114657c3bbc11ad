"""Runs the examples of docs/clients.md, unchanged, with a service."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser

from tests.browser import conftest

pytestmark = pytest.mark.slow

browser = conftest.browser

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "clients.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))
SEVEN = [-2.65, -0.36, 0.13]


def blocks(section: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", SECTIONS[section], re.DOTALL | re.MULTILINE)


@pytest.fixture
def address(url: str) -> str:
    return url.removeprefix("http://")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of the examples, with the picture that they send."""
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_python(block: str, address: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(block.replace("localhost:8000", address), names)
    return names


@pytest.mark.parametrize(
    ("client", "language"),
    [
        ("Python", "python"),
        ("Arrays", "python"),
        ("JavaScript", "js"),
        ("Triton client", "python"),
    ],
)
def test_each_client_has_an_example(client: str, language: str) -> None:
    assert blocks(client, language)
    assert all(len(block.splitlines()) >= 3 for block in blocks(client, language))


def test_python(address: str, folder: Path) -> None:
    plain, batches, awaited, options, errors = blocks("Python", "python")
    names = run_python(plain, address)
    np.testing.assert_allclose(names["posterior"].mean, SEVEN, atol=0.01)
    assert tuple(names["tensor"].shape) == (1, 28, 28)
    assert (folder / "seven.png").read_bytes().startswith(b"\x89PNG")
    assert [len(names[name].pixels) for name in ("samples", "path", "grid")] == [16, 8, 225]
    assert (names["test_set"].mean.shape, names["test_set"].label.shape) == ((10000, 3), (10000,))
    assert run_python(batches, address)["means"].shape == (5000, 3)
    samples = run_python(awaited, address)["samples"]
    assert [sample.seed for sample in samples] == list(range(10))
    names = run_python(options, address)
    assert names["status"] == "ok"
    assert names["image"].pixels.shape == (1, 1, 28, 28)
    assert names["http_client"].is_closed
    assert run_python(errors, address)["correction"].count("(3,)") == 1


def test_readme_of_the_client(address: str) -> None:
    page = (ROOT / "vae_client" / "README.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert run_python(block, address)["images"].pixels.shape == (4, 1, 28, 28)


def test_arrays(address: str) -> None:
    (block,) = blocks("Arrays", "python")
    names = run_python(block, address)
    assert names["posterior"]["mean"].shape == (5, 3)
    assert names["images"].shape == (5, 1, 28, 28)


def test_javascript(address: str, browser: Browser) -> None:
    (block,) = blocks("JavaScript", "js")
    page = browser.new_page()
    logged: list[str] = []
    page.on("console", lambda message: logged.append(message.text))
    page.goto(f"http://{address}")
    page.evaluate(f"async () => {{ {block.replace('localhost:8000', address)} }}")
    np.testing.assert_allclose(json.loads(logged[-1]), SEVEN, atol=0.3)


def test_triton(address: str) -> None:
    (block,) = blocks("Triton client", "python")
    names = run_python(block, address)
    assert names["images"].shape == (2, 1, 28, 28)
    np.testing.assert_allclose(names["mean"][0], SEVEN, atol=0.5)
