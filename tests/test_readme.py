"""Runs the README's commands, and compares its tables with the code."""

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.settings import Settings
from tests.service.running import running
from tests.soak.report import misses

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory for the README's commands, with the picture that they send."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "docs").symlink_to(ROOT / "docs")
    return folder


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running() as service:
        yield f"127.0.0.1:{service.port}"


def test_every_curl_command_succeeds_and_every_route_has_one(project: Path, address: str) -> None:
    commands = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("curl ")]
    for command in commands:
        call = command.replace("localhost:8000", address)
        subprocess.run(["curl", "-sS", "--fail", *shlex.split(call)[1:]], cwd=project, check=True)
    paths = httpx.get(f"http://{address}/openapi.json").json()["paths"]
    others = ("/remote/", "/v2")  # protocols of other clients are in docs/clients.md
    routes = [path for path in paths if not path.startswith(others) and f"localhost:8000{path}" not in README]
    assert not routes
    for name in ("digit", "again", "samples", "between", "grid"):
        assert (project / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_python_examples_run(project: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    namespace: dict[str, Any] = {}
    for example in blocks("python"):
        exec(example.replace("localhost:8000", address), namespace)
    assert namespace["images"].shape == (1000, 1, 28, 28)
    assert namespace["posterior"].mean == pytest.approx([-2.65, -0.36, 0.13], abs=0.01)
    assert (project / "seven.png").read_bytes().startswith(b"\x89PNG")


def test_settings_table_has_every_setting_and_default() -> None:
    rows = dict(re.findall(r"^\| `(VAE_\w+)` \| (.+?) \|", README, re.MULTILINE))
    assert rows.keys() == {f"VAE_{name.upper()}" for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        default = rows[f"VAE_{name.upper()}"]
        assert default in (f"`{field.default}`", "none" if field.default == () else "", "the bundled model"), name


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^make (\w+)", "\n".join(blocks("sh")), re.MULTILINE)
    assert {"serve", "test"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_soak_table_is_that_of_the_report() -> None:
    """Missed goals are listed too."""
    report = ROOT / "tests" / "soak" / "report.md"
    (section,) = re.findall(r"^<!-- soak -->\n(.*?)^<!-- /soak -->$", README, re.DOTALL | re.MULTILINE)
    page = report.read_text()
    assert "quick run" not in page
    table = re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE)[0]
    missed = misses(json.loads(report.with_suffix(".json").read_text()))
    assert section == "\n".join((table, *(f"- {line}" for line in missed))) + "\n"


def test_linked_paths_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    for link in links:
        assert (ROOT / link.partition("#")[0]).exists(), link
