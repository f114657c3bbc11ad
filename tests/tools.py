"""Programs that some tests need and pip cannot install."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def tool(name: str, package: str) -> str:
    """Return the path of a program. Without it the test is skipped, or fails where CI is set."""
    found = shutil.which(name)
    if found is None:
        lacks(f"{name} is not installed: apt-get install {package}.")
    return found


def lacks(reason: str) -> NoReturn:
    """Skip the test that lacks what it needs, or fail it where CI is set."""
    if "CI" in os.environ:
        pytest.fail(reason)
    pytest.skip(reason)
