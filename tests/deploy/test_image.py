"""The locks match pyproject.toml, and the build context the Dockerfile; `make image-test` runs the image."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import tomllib
from fnmatch import fnmatch
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.image import trim
from deploy.image.rootfs import IMPORTS, UNUSED_MODULES
from deploy.image.trim import UNUSED
from tests.live import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = {name.split(".")[0] for name in PROJECT["tool"]["setuptools"]["packages"]}
SERVICE_LOCKS = ["none", "cpu", "cuda"]
"""Values of the build argument TORCH."""
LOCKS = [*SERVICE_LOCKS, "build"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def pins(lock: str) -> dict[str, tuple[str, list[str]]]:
    """Name → version and hashes in requirements/`lock`.txt."""
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    blocks = re.findall(r"^(\S+)==(\S+)[^\n]*\n?((?: +--hash=\S+(?: \\)?\n?)*)", text, re.MULTILINE)
    assert "".join(f"{name}{version}" for name, version, _ in blocks), lock
    return {name: (version, re.findall(r"--hash=(sha256:[0-9a-f]{64})\b", hashes)) for name, version, hashes in blocks}


@pytest.mark.parametrize("lock", LOCKS)
def test_each_pin_has_a_hash_and_no_index(lock: str) -> None:
    assert all(hashes for _, hashes in pins(lock).values())
    lines = (ROOT / "requirements" / f"{lock}.txt").read_text().splitlines()
    assert not [line for line in lines if not re.fullmatch(r"\S+==\S+( ; .*)? \\|    --hash=sha256:\w{64}( \\)?", line)]


@pytest.mark.parametrize("lock", SERVICE_LOCKS)
def test_lock_has_the_requirements_of_the_service(lock: str) -> None:
    pinned = pins(lock)
    required = PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["otel"]
    for requirement in map(Requirement, required):
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"{name} is not in requirements/{lock}.txt: make lock"
        assert requirement.specifier.contains(pinned[name][0]), f"{name} {pinned[name][0]}: make lock"


@pytest.mark.parametrize("lock", ["cpu", "cuda"])
def test_lock_has_the_build_of_torch(lock: str) -> None:
    assert f"torch=={pins(lock)['torch'][0]}" == (ROOT / f"requirements/{lock}.in").read_text().strip()


def test_image_has_the_platforms_of_the_locks() -> None:
    froms = re.findall(r"^FROM (.*)$", DOCKERFILE, re.MULTILINE)
    assert froms == ["python:3.11-slim AS build", "scratch"]
    makefile = (ROOT / "Makefile").read_text()
    assert re.findall(r"^LOCK := .* --only-binary :all: --python-version 3\.11$", makefile, re.MULTILINE)
    assert set(re.findall(r"--python-platform (\w+)-manylinux_2_28", makefile)) == {"x86_64", "aarch64"}


def test_locks_differ_in_torch_alone() -> None:
    assert "torch" not in pins("none")
    assert not [name for name in pins("cpu") if name.startswith(("nvidia", "cuda", "triton"))]
    assert [name for name in pins("cuda") if name.startswith("nvidia")]
    none, cpu, cuda = ({name: pin for name, pin in pins(lock).items() if name != "torch"} for lock in SERVICE_LOCKS)
    assert none.items() <= cpu.items() <= cuda.items(), "the locks differ: make lock"


def test_default_is_without_torch() -> None:
    assert re.findall(r"^ARG TORCH=(.*)$", DOCKERFILE, re.MULTILINE) == ["none"]
    assert "requirements/${TORCH:-none}.txt" in DOCKERFILE


def test_every_install_requires_hashes() -> None:
    commands = DOCKERFILE.replace("\\\n", " ").splitlines()
    installs = [part for line in commands for part in line.split("&&") if re.search(r"pip (install|wheel) ", part)]
    assert len(installs) == 4
    for install in installs:
        is_project = "--no-index" in install or "--no-build-isolation" in install  # this project's wheel
        assert is_project or "--require-hashes" in install, install


def test_it_runs_as_an_unprivileged_user() -> None:
    last_stage = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.findall(r"^USER (.*)$", last_stage, re.MULTILINE) == ["10001:10001"]


def test_uninstalled_packages_are_locked_and_not_imported() -> None:
    (names,) = re.findall(r"pip uninstall --quiet --yes \\\n(.*)\n", DOCKERFILE)
    assert set(names.split()) <= pins("cpu").keys()
    sources = "\n".join(
        path.read_text() for folder in ("pictures", "service", "vae") for path in (ROOT / folder).rglob("*.py")
    )
    imported = set(re.findall(r"^ *(?:import|from) (\w+)", sources, re.MULTILINE))
    for name in names.split():
        provided = {file.parts[0].removesuffix(".py") for file in distribution(name).files or []}
        assert provided, name
        assert not provided & imported, f"the service imports {name}"


def test_nothing_is_removed_that_the_service_imports_when_it_starts() -> None:
    command = [sys.executable, "-c", IMPORTS]
    imported = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    files = {Path(file) for file in imported}
    library, site = Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))
    assert {library / "ssl.py", site / "uvicorn/server.py", ROOT / "service/app.py"} <= files
    removed = {path for patterns in UNUSED.values() for pattern in patterns for path in site.glob(pattern)}
    removed -= {site / path for path in trim.KEPT}
    removed.remove(site / "pydantic/v1")  # FastAPI imports it if it is there
    assert site / "onnxruntime/tools" in removed
    for file in files:
        if file.is_relative_to(site):
            assert not removed & {file, *file.parents}, file
        elif file.is_relative_to(library):
            names = file.relative_to(library).parts
            assert not [name for name in names for unused in UNUSED_MODULES if fnmatch(name, unused)], file


def test_trim_removes_what_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trim, "UNUSED", {"package": ("package/*/tests", "package/bin/*"), "absent": ("absent/*",)})
    monkeypatch.setattr(trim, "KEPT", {"package/bin/program"})
    monkeypatch.setattr(trim, "WITH_SYMBOLS", ())
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: None)
    kept = ["package/__init__.py", "package/bin/program"]
    for name in [*kept, "package/part/tests/test.py", "package/bin/other", "package/stub.pyi"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    trim.main(tmp_path)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == {tmp_path / name for name in kept}
    assert not (tmp_path / "package/part").exists()
    with pytest.raises(SystemExit, match="package/\\*/tests"):
        trim.main(tmp_path)


def test_build_context_has_what_the_build_needs() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    included = {line[1:] for line in ignored if line.startswith("!")}
    assert ignored[0] == "*"
    documents = {"pyproject.toml", PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]}
    assert included == PACKAGES | documents | {"deploy", "deploy/image", "requirements"}
    assert all((ROOT / path).exists() for path in included)


def test_image_has_only_the_service() -> None:
    (removed,) = re.findall(r"cd /opt/vae && rm -r (.*)", DOCKERFILE)
    packages = {path.rsplit("/", 1)[1] for path in removed.split()} - {"vae-train"}
    assert packages == PACKAGES - {"pictures", "service", "vae", "weights"}
