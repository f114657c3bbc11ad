"""What runs the checks elsewhere, pre-commit and GitHub, against the Makefile and pyproject.toml."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from typing import Any

import pytest
import yaml

from deploy.release.check import SOURCES
from tests.live import ROOT

GITHUB = ROOT / ".github"


def read(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text())


def commands(*targets: str) -> list[str]:
    """What `make` would run for `targets`, with .venv as it is; fails where the Makefile lacks one of them."""
    command = ["make", "--dry-run", "--no-print-directory", "--assume-old=.venv/dev", *targets]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


def test_pre_commit_runs_the_commands_of_make_check() -> None:
    (local,) = read(".pre-commit-config.yaml")["repos"]
    assert [hook["entry"] for hook in local["hooks"]] == commands("check")
    assert local["repo"] == "local"
    assert all(hook["language"] == "system" and not hook["pass_filenames"] for hook in local["hooks"])


def test_make_test_runs_the_checks_first() -> None:
    *before, pytest_command = commands("test")
    assert before == commands("check")
    assert pytest_command.startswith(".venv/bin/pytest ")


@pytest.mark.parametrize(
    ("workflow", "target", "uploads"),
    [("ci.yml", "test", ()), ("release.yml", "release-check", ("cosign sign ", "gh release create "))],
)
def test_workflow_runs_targets_of_the_makefile_but_to_upload(
    workflow: str, target: str, uploads: tuple[str, ...]
) -> None:
    jobs = read(f".github/workflows/{workflow}")["jobs"].values()
    steps = [step for job in jobs for step in job.get("steps", ())]
    scripts = [step["run"].removeprefix("sudo ") for step in steps if "run" in step]
    assert f"make {target}" in scripts
    for script in scripts:
        make, *targets = script.split()
        assert script.startswith(uploads) or (make == "make" and commands(*targets))


def test_release_publishes_what_release_check_builds_after_the_tests() -> None:
    jobs = read(".github/workflows/release.yml")["jobs"]
    assert jobs["test"]["uses"] == "./.github/workflows/ci.yml"
    assert "workflow_call" in read(".github/workflows/ci.yml")[True]  # YAML reads the key `on` as true
    assert jobs["build"]["needs"] == "test"
    assert jobs["distributions"]["needs"] == jobs["image"]["needs"] == "build"
    assert jobs["distributions"]["strategy"]["matrix"]["name"] == list(SOURCES)


def test_workflow_tests_each_python_that_the_package_is_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    prefix = "Programming Language :: Python :: "
    versions = [each.removeprefix(prefix) for each in project["classifiers"] if each.startswith(prefix)]
    assert read(".github/workflows/ci.yml")["jobs"]["test"]["strategy"]["matrix"]["python"] == versions
    assert project["requires-python"] == f">={versions[0]}"


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("github-workflows", "workflows/*.yml"),
        ("dependabot", "dependabot.yml"),
        ("github-issue-forms", "ISSUE_TEMPLATE/*.yml"),
    ],
)
def test_files_are_as_github_says(schema: str, files: str) -> None:
    paths = map(str, GITHUB.glob(files))
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *paths]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr
