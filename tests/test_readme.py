"""The pages: their commands and examples are run, their tables and links compared with the code and the files."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from service.settings import Settings, read_settings
from tests.live import LiveServer, live_server
from tests.soak.report import misses
from training.__main__ import _parse as parse_training_options

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
PAGES = {
    str(path.relative_to(ROOT)): path.read_text() for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))
}
"""What a user reads, by path."""
EVERY_PAGE = sorted(
    path
    for pattern in (
        "*.md",
        "benchmarks/*.md",
        "deploy/**/*.md",
        "docs/*.md",
        "tests/soak/*.md",
        "vae_client/*.md",
        "weights/*.md",
    )
    for path in ROOT.glob(pattern)
)
PYTHON_TESTED_ELSEWHERE = {
    "docs/clients.md": "tests/client/test_clients_page.py",
    "docs/remote-vae.md": "tests/service/api/remote/test_diffusers.py",
    "docs/training.md": "tests/training/test_page.py, tests/training/encode/test_inputs.py",
}
ARTICLE = "[article on variational autoencoders](https://krishnabhattarai.com/variationalautoencoder)"
SEVEN = [-2.65, -0.36, 0.13]
"""Latent of docs/seven.png."""


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGES[page], re.DOTALL | re.MULTILINE)


def commands(page: str, program: str) -> list[str]:
    lines = [line.removeprefix(".venv/bin/") for block in blocks(page, "sh") for line in block.splitlines()]
    return [line for line in lines if line.startswith(f"{program} ")]


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with live_server() as live:
        yield live


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of commands and examples, in which they may write, with the picture that they send."""
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page, "curl")])
def test_curl_commands_succeed(page: str, server: LiveServer, project: Path) -> None:
    for command in commands(page, "curl"):
        call = shlex.split(re.sub(r"localhost:800\d", server.address, command))
        response = subprocess.run([*call, "-sS", "--fail"], check=True, capture_output=True).stdout
        file = re.search(r"-o (\S+\.png)", command)
        if file:
            assert (project / file[1]).read_bytes().startswith(b"\x89PNG"), command
        elif "x-ndjson" in command:
            assert [list(json.loads(line)) for line in response.splitlines()] == [["z", "pixels"]] * 3
        elif command.endswith("localhost:8000/encode"):
            assert json.loads(response)["mean"] == pytest.approx(SEVEN, abs=0.01)


def test_every_route_has_a_curl_command(server: LiveServer) -> None:
    paths = server.get("/openapi.json").json()["paths"]
    elsewhere = ("/remote/", "/v2", "/models/{name}/")  # docs/clients.md; the same routes of one model
    called = " ".join(command for page in PAGES for command in commands(page, "curl"))
    assert not [path for path in paths if not path.startswith(elsewhere) and f"localhost:8000{path}" not in called]


def test_python_examples_run(server: LiveServer, project: Path) -> None:
    names: dict[str, Any] = {}
    for page in PAGES:
        for example in () if page in PYTHON_TESTED_ELSEWHERE else blocks(page, "python"):
            exec(example.replace("localhost:8000", server.address), names)
    assert names["images"].shape == (1000, 1, 28, 28)
    assert names["posterior"].mean == pytest.approx(SEVEN, abs=0.01)
    assert (project / "seven.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("program", "parse"), [("vae-train", parse_training_options), ("vae-serve", read_settings)])
def test_options_exist(program: str, parse: Callable[[Sequence[str]], object], project: Path) -> None:
    found = [command for page in PAGES for command in commands(page, program)]
    assert found
    for command in found:
        for file in re.findall(r"--config (\S+)", command):
            (project / file).parent.mkdir(exist_ok=True)
            (project / file).touch()
        parse(shlex.split(command.removesuffix(" &"), comments=True)[1:])  # raises SystemExit for an unknown option


def test_settings_table_is_complete_and_true() -> None:
    rows = dict(re.findall(r"^\| `(VAE_\w+)` \| (.+?) \|", PAGES["docs/settings.md"], re.MULTILINE))
    assert rows.keys() == {f"VAE_{name.upper()}" for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        default = rows[f"VAE_{name.upper()}"]
        expected = (f"`{field.default}`", "none" if field.default in ((), None) else "", "the bundled model")
        assert default in expected, name


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = {command.split()[1] for page in PAGES for command in commands(page, "make")}
    assert targets >= {"serve", "test"}
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_soak_table_is_the_reports_with_every_miss() -> None:
    report = ROOT / "tests" / "soak" / "report.md"
    (shown,) = re.findall(
        r"^<!-- soak -->\n(.*?)^<!-- /soak -->$", PAGES["docs/reliability.md"], re.DOTALL | re.MULTILINE
    )
    page = report.read_text()
    assert "quick run" not in page
    table = re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE)[0]
    missed = misses(json.loads(report.with_suffix(".json").read_text()))
    assert shown == "\n".join((table, *(f"- {line}" for line in missed))) + "\n"


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub forms them."""
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", EVERY_PAGE, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_exist(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", EVERY_PAGE, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_article_is_linked_at_its_first_mention(page: Path) -> None:
    mention = re.search(r"\b[Aa]rticle\b(?!s)", page.read_text())
    assert mention is None or page.read_text().find(ARTICLE) == mention.start() - 1


def test_files_that_contributing_names_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"`([\w/-]+/[\w/-]+(?:\.\w+)?|[\w-]+/)`", text))
    for folder, files in re.findall(r"^\| `([\w/]+/)` \| (.*) \|$", text, re.MULTILINE):
        named |= {folder + file for file in re.findall(r"`(\w+\.py)`", files)}
    assert len(named) > 100
    assert not [path for path in sorted(named) if not (ROOT / path).exists()]
