"""The version and the notes of a release."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.release.notes import ReleaseError, common_version, release_notes
from tests.live import ROOT

CHANGELOG = """# Changelog

## [Unreleased]

## [0.2.0] - 2026-12-24

### Added

- A route.

## [0.1.0] - 2026-12-01

The first.
"""


def test_notes_are_the_section_of_the_version() -> None:
    assert release_notes(CHANGELOG, "0.2.0", "v0.2.0") == "### Added\n\n- A route."
    assert release_notes(CHANGELOG, "0.1.0", None) == "The first."


def test_notes_without_a_tag_may_be_the_unreleased() -> None:
    changelog = CHANGELOG.replace("## [Unreleased]\n", "## [Unreleased]\n\n- A setting.\n")
    assert release_notes(changelog, "0.3.0", None) == "- A setting."
    with pytest.raises(ReleaseError, match=r"\[0\.3\.0\]"):
        release_notes(changelog, "0.3.0", "v0.3.0")


def test_an_empty_section_is_an_error() -> None:
    with pytest.raises(ReleaseError, match=r"\[Unreleased\]"):
        release_notes(CHANGELOG, "0.3.0", None)


@pytest.mark.parametrize("tag", ["v0.1.0", "0.2.0", "v0.2.0.post1", ""])
def test_a_tag_of_another_version_is_an_error(tag: str) -> None:
    with pytest.raises(ReleaseError, match=r"is not v0\.2\.0"):
        release_notes(CHANGELOG, "0.2.0", tag)


def test_changelog_has_notes_for_the_next_release() -> None:
    assert release_notes((ROOT / "CHANGELOG.md").read_text(), "0.1.0", None)


def test_distributions_have_one_version() -> None:
    names = ["vae_service-0.2.0-py3-none-any.whl", "vae_service-0.2.0.tar.gz", "vae_client-0.2.0.tar.gz"]
    assert common_version(map(Path, names)) == "0.2.0"
    with pytest.raises(ReleaseError, match=r"vae_client-0\.1\.0"):
        common_version(map(Path, [*names, "vae_client-0.1.0.tar.gz"]))
