"""The version of a release, and its notes from the changelog."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from packaging.utils import parse_sdist_filename, parse_wheel_filename

UNRELEASED = "Unreleased"


class ReleaseError(Exception):
    """The release does not agree with itself."""


def common_version(distributions: Iterable[Path]) -> str:
    """Return the version of all wheels and sdists, read from their file names.

    Raises:
        ReleaseError: They have different versions.

    """
    versions: dict[str, list[str]] = {}
    for path in distributions:
        version = parse_wheel_filename(path.name)[1] if path.suffix == ".whl" else parse_sdist_filename(path.name)[1]
        versions.setdefault(str(version), []).append(path.name)
    if len(versions) != 1:
        raise ReleaseError(f"The distributions need one version: {versions}. Set it in each pyproject.toml.")
    return next(iter(versions))


def release_notes(changelog: str, version: str, tag: str | None) -> str:
    """Return what the changelog says about a version; without a tag and its section, what is unreleased.

    Raises:
        ReleaseError: The tag is not that of the version, or the section is missing or empty.

    """
    if tag not in (None, f"v{version}"):
        raise ReleaseError(f"The tag {tag} is not v{version}, the version in pyproject.toml.")
    notes = _sections(changelog)
    heading = UNRELEASED if tag is None and version not in notes else version
    if not notes.get(heading):
        raise ReleaseError(f"CHANGELOG.md says nothing under `## [{heading}]`.")
    return notes[heading]


def _sections(changelog: str) -> dict[str, str]:
    """Return the text of each section by its version."""
    _, *parts = re.split(r"^## \[(.+?)\].*\n", changelog, flags=re.MULTILINE)
    return {version: text.strip() for version, text in zip(parts[::2], parts[1::2], strict=True)}
