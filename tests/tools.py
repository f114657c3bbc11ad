"""Programs that some tests need and pip cannot install."""

from __future__ import annotations

import os
import shutil

import pytest


def tool(name: str, package: str) -> str:
    """Return the path of a program. Without it the test is skipped, or fails where CI is set."""
    found = shutil.which(name)
    if found is None:
        reason = f"{name} is not installed: apt-get install {package}."
        if "CI" in os.environ:
            pytest.fail(reason)
        pytest.skip(reason)
    return found
