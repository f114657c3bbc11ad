"""The examples of docs/clients.md are run, as they stand, against a service."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Error, sync_playwright

from tests.live import LiveServer, live_server

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "clients.md").read_text()
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SEVEN = [-2.65, -0.36, 0.13]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with live_server() as live:
        yield live


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the examples run, with the picture that they send."""
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    with sync_playwright() as playwright:
        try:
            chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except Error:
            pytest.skip("There is no Chromium here: install one (apt-get install chromium).")
        yield chromium
        chromium.close()


def run_python(block: str, server: LiveServer) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(block.replace("localhost:8000", server.address), names)
    return names


def test_curl(server: LiveServer, folder: Path) -> None:
    (block,) = blocks("sh")
    answers = []
    for command in block.splitlines():
        call = shlex.split(command.replace("localhost:8000", server.address))
        answers.append(subprocess.run([*call, "-sS", "--fail"], cwd=folder, check=True, capture_output=True).stdout)
    np.testing.assert_allclose(json.loads(answers[0])["mean"], SEVEN, atol=0.01)
    assert (folder / "digit.png").read_bytes().startswith(b"\x89PNG")
    assert [list(json.loads(line)) for line in answers[2].splitlines()] == [["z", "pixels"]] * 3


def test_python(server: LiveServer, folder: Path) -> None:
    plain, batches, awaited, errors = (block for block in blocks("python") if "vae_client" in block)
    names = run_python(plain, server)
    np.testing.assert_allclose(names["posterior"].mean, SEVEN, atol=0.01)
    assert tuple(names["tensor"].shape) == (1, 28, 28)
    assert (folder / "seven.png").read_bytes().startswith(b"\x89PNG")
    assert [len(names[name].pixels) for name in ("sheet", "walk", "grid")] == [16, 8, 225]
    assert run_python(batches, server)["means"].shape == (5000, 3)
    samples = run_python(awaited, server)["samples"]
    assert [sample.seed for sample in samples] == list(range(10))
    assert run_python(errors, server)["mend"].endswith("is wanted.")


def test_arrays(server: LiveServer) -> None:
    (block,) = (block for block in blocks("python") if "pyarrow" in block)
    names = run_python(block, server)
    assert names["posterior"]["mean"].shape == (5, 3)
    assert names["images"].shape == (5, 1, 28, 28)


def test_javascript(server: LiveServer, browser: Browser) -> None:
    (block,) = blocks("js")
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(server.url)
    page.evaluate(f"async () => {{ {block.replace('localhost:8000', server.address)} }}")
    np.testing.assert_allclose(json.loads(said[-1]), SEVEN, atol=0.3)
