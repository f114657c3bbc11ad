"""The distribution `vae-client`: it is built, installed into a virtual environment and used there."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import HeaderParser
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.live import ROOT

pytestmark = pytest.mark.slow

CLIENT = ROOT / "vae_client"
EXAMPLE = """
import json, sys
import numpy
import vae_client
with vae_client.Client(sys.argv[1]) as client:
    pixels = client.decode([-2.65, -0.36, 0.13]).pixels
    mean = client.encode(pixels).mean
    status = client.health().status
print(json.dumps([vae_client.__version__, vae_client.__file__, status, mean.tolist()]))
"""


def project(folder: Path) -> Any:
    return tomllib.loads((folder / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the source distribution, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("built")
    uv("build", "--no-build-isolation", "--python", sys.executable, "--out-dir", str(folder), str(CLIENT))
    return folder


def uv(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "uv", "--quiet", "--offline", *arguments], check=True)


@pytest.fixture
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


def test_client_and_service_have_one_version() -> None:
    assert project(CLIENT)["version"] == project(ROOT)["version"]
    assert project(CLIENT)["requires-python"] == project(ROOT)["requires-python"]
    assert project(CLIENT)["classifiers"] == project(ROOT)["classifiers"]


def test_the_service_has_neither_the_client_nor_httpx() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert "vae_client" not in tools["setuptools"]["packages"]
    assert not [each for each in project(ROOT)["dependencies"] if each.startswith(("httpx", "tqdm", "vae-client"))]


def test_version_of_a_tree_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert runpy.run_path(str(CLIENT / "version.py"))["__version__"] == "0+unknown"


def test_wheel_has_the_package_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        information = f"vae_client-{project(CLIENT)['version']}.dist-info"
        described = HeaderParser().parsestr(archive.read(f"{information}/METADATA").decode())
        assert archive.read(f"{information}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    package = {f"vae_client/{path.name}" for path in CLIENT.glob("*.py")} | {"vae_client/py.typed"}
    assert {name for name in names if ".dist-info/" not in name} == package
    required = [each for each in described.get_all("Requires-Dist", []) if "extra ==" not in each]
    assert [each.partition(">")[0].partition("<")[0] for each in sorted(required)] == ["httpx", "numpy"]
    assert described.get_all("Provides-Extra") == ["progress"]


def test_source_distribution_has_no_links(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        (licence,) = [member for member in archive if member.name.endswith("/LICENSE")]
        assert licence.isfile()


def test_installed_wheel_works(wheel: Path, url: str, tmp_path: Path) -> None:
    uv("venv", "--python", sys.executable, str(tmp_path / "venv"))
    python = str(tmp_path / "venv" / "bin" / "python")
    uv("pip", "install", "--python", python, "--no-deps", str(wheel))
    (packages,) = (tmp_path / "venv").glob("lib/python3*/site-packages")
    (packages / "dependencies.pth").write_text(str(Path(httpx.__file__).parents[1]))
    output = subprocess.run(
        [python, "-I", "-c", EXAMPLE, url], cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout
    version, file, status, mean = json.loads(output)
    assert version == project(CLIENT)["version"]
    assert Path(file).parent == packages / "vae_client"
    assert status == "ok"
    assert mean == pytest.approx([-2.65, -0.36, 0.13], abs=0.5)
