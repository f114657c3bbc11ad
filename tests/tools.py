"""Programs that some tests need and that pip does not bring."""

from __future__ import annotations

import os
import shutil

import pytest


def tool(name: str, package: str) -> str:
    """The path of a program. Without it the test is skipped, and says why; where CI is set it fails."""
    found = shutil.which(name)
    if found is None:
        reason = f"There is no {name} here: apt-get install {package}."
        if "CI" in os.environ:
            pytest.fail(reason)
        pytest.skip(reason)
    return found
