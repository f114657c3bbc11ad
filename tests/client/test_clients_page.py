"""The examples of docs/clients.md are run, as they stand, against a service."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser

from tests.browser import conftest
from tests.live import LiveServer, live_server

browser = conftest.browser

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "clients.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))
SEVEN = [-2.65, -0.36, 0.13]


def blocks(section: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", SECTIONS[section], re.DOTALL | re.MULTILINE)


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


def run_python(block: str, server: LiveServer) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(block.replace("localhost:8000", server.address), names)
    return names


@pytest.mark.parametrize(
    ("client", "language"),
    [("curl", "sh"), ("Python", "python"), ("JavaScript", "js"), ("diffusers", "python"), ("Triton client", "python")],
)
def test_each_client_has_an_example(client: str, language: str) -> None:
    assert blocks(client, language)
    assert all(len(block.splitlines()) >= 3 for block in blocks(client, language))


def test_curl(server: LiveServer, folder: Path) -> None:
    (block,) = blocks("curl", "sh")
    answers = []
    for command in block.splitlines():
        call = shlex.split(command.replace("localhost:8000", server.address))
        answers.append(subprocess.run([*call, "-sS", "--fail"], cwd=folder, check=True, capture_output=True).stdout)
    np.testing.assert_allclose(json.loads(answers[0])["mean"], SEVEN, atol=0.01)
    assert (folder / "digit.png").read_bytes().startswith(b"\x89PNG")
    assert [list(json.loads(line)) for line in answers[2].splitlines()] == [["z", "pixels"]] * 3


def test_python(server: LiveServer, folder: Path) -> None:
    plain, batches, awaited, errors = blocks("Python", "python")
    names = run_python(plain, server)
    np.testing.assert_allclose(names["posterior"].mean, SEVEN, atol=0.01)
    assert tuple(names["tensor"].shape) == (1, 28, 28)
    assert (folder / "seven.png").read_bytes().startswith(b"\x89PNG")
    assert [len(names[name].pixels) for name in ("sheet", "walk", "grid")] == [16, 8, 225]
    assert run_python(batches, server)["means"].shape == (5000, 3)
    samples = run_python(awaited, server)["samples"]
    assert [sample.seed for sample in samples] == list(range(10))
    assert run_python(errors, server)["mend"].endswith("is expected.")


def test_arrays(server: LiveServer) -> None:
    (block,) = blocks("Arrays", "python")
    names = run_python(block, server)
    assert names["posterior"]["mean"].shape == (5, 3)
    assert names["images"].shape == (5, 1, 28, 28)


def test_javascript(server: LiveServer, browser: Browser) -> None:
    (block,) = blocks("JavaScript", "js")
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(server.url)
    page.evaluate(f"async () => {{ {block.replace('localhost:8000', server.address)} }}")
    np.testing.assert_allclose(json.loads(said[-1]), SEVEN, atol=0.3)


def test_triton(server: LiveServer) -> None:
    (block,) = blocks("Triton client", "python")
    names = run_python(block, server)
    assert names["images"].shape == (2, 1, 28, 28)
    np.testing.assert_allclose(names["mean"][0], SEVEN, atol=0.5)
