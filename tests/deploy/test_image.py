"""The locks match pyproject.toml, and the build context the Dockerfile; `make image-test` runs the image."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import distribution

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.live import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = {name.split(".")[0] for name in PROJECT["tool"]["setuptools"]["packages"]}
LOCKS = ["cpu", "cuda", "build"]
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


@pytest.mark.parametrize("lock", ["cpu", "cuda"])
def test_lock_has_the_requirements_of_the_service(lock: str) -> None:
    pinned = pins(lock)
    required = PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["otel"]
    for requirement in map(Requirement, required):
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"{name} is not in requirements/{lock}.txt: make lock"
        assert requirement.specifier.contains(pinned[name][0]), f"{name} {pinned[name][0]}: make lock"
    assert f"torch=={pinned['torch'][0]}" == (ROOT / f"requirements/{lock}.in").read_text().strip()


def test_image_has_the_platform_of_the_locks() -> None:
    froms = re.findall(r"^FROM (.*)$", DOCKERFILE, re.MULTILINE)
    assert froms == ["--platform=linux/amd64 python:3.11-slim AS build", "--platform=linux/amd64 scratch"]
    (lock,) = re.findall(r"^LOCK := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert lock.endswith("--python-version 3.11 --python-platform x86_64-manylinux_2_28")


def test_cpu_lock_has_no_cuda() -> None:
    assert not [name for name in pins("cpu") if name.startswith(("nvidia", "cuda", "triton"))]
    assert [name for name in pins("cuda") if name.startswith("nvidia")]
    others = {lock: {name: pin for name, pin in pins(lock).items() if name != "torch"} for lock in ("cpu", "cuda")}
    assert others["cpu"].items() <= others["cuda"].items(), "the locks differ: make lock"


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
    (names,) = re.findall(r"pip uninstall --quiet --yes \\\n(.*?) \\\n", DOCKERFILE)
    assert set(names.split()) <= pins("cpu").keys()
    sources = "\n".join(
        path.read_text() for folder in ("pictures", "service", "vae") for path in (ROOT / folder).rglob("*.py")
    )
    imported = set(re.findall(r"^ *(?:import|from) (\w+)", sources, re.MULTILINE))
    for name in names.split():
        provided = {file.parts[0].removesuffix(".py") for file in distribution(name).files or []}
        assert provided, name
        assert not provided & imported, f"the service imports {name}"


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
