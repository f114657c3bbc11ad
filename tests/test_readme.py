"""The README's commands are run, and its tables held against the code."""

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from service.settings import Settings
from tests.live import live_server
from tests.soak.report import misses

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the README's commands may write, with the picture that they send."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "docs").symlink_to(ROOT / "docs")
    return folder


def test_every_curl_answers_and_every_route_has_one(project: Path) -> None:
    commands = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("curl ")]
    with live_server() as server:
        for command in commands:
            call = command.replace("localhost:8000", server.address)
            subprocess.run(["curl", "-sS", "--fail", *shlex.split(call)[1:]], cwd=project, check=True)
        paths = server.get("/openapi.json").json()["paths"]
    others = ("/remote/", "/v2")  # other clients' protocols: docs/clients.md
    routes = [path for path in paths if not path.startswith(others) and f"localhost:8000{path}" not in README]
    assert not routes
    for name in ("digit", "again", "samples", "between", "grid"):
        assert (project / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_python_examples_run(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    namespace: dict[str, Any] = {}
    with live_server() as server:
        for example in blocks("python"):
            exec(example.replace("localhost:8000", server.address), namespace)
    assert namespace["images"].shape == (1000, 1, 28, 28)
    assert namespace["posterior"].mean == pytest.approx([-2.65, -0.36, 0.13], abs=0.01)
    assert (project / "seven.png").read_bytes().startswith(b"\x89PNG")


def test_settings_table_is_complete_and_true() -> None:
    rows = dict(re.findall(r"^\| `(VAE_\w+)` \| (.+?) \|", README, re.MULTILINE))
    assert rows.keys() == {f"VAE_{name.upper()}" for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        told = rows[f"VAE_{name.upper()}"]
        assert told in (f"`{field.default}`", "none" if field.default == () else "", "the bundled model"), name


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^make (\w+)", "\n".join(blocks("sh")), re.MULTILINE)
    assert {"serve", "test"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_soaks_table_is_its_report() -> None:
    """And what it missed is not kept quiet."""
    report = ROOT / "tests" / "soak" / "report.md"
    (told,) = re.findall(r"^<!-- soak -->\n(.*?)^<!-- /soak -->$", README, re.DOTALL | re.MULTILINE)
    page = report.read_text()
    assert "quick run" not in page
    table = re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE)[0]
    missed = misses(json.loads(report.with_suffix(".json").read_text()))
    assert told == "\n".join((table, *(f"- {line}" for line in missed))) + "\n"


def test_paths_that_are_linked_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    for link in links:
        assert (ROOT / link.partition("#")[0]).exists(), link
