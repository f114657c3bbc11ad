"""The documentation as a site."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import training
import vae
import vae_client
from tests.live import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built without a warning: each link leads to a page and a heading."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        loaded = re.findall(r'<(?:link|script|img)\b[^>]*?(?:href|src)="?([^"\s>]+)', page.read_text())
        assert loaded
        assert not [url for url in loaded if "//" in url], page


@pytest.mark.parametrize(
    ("package", "names"), [("vae", vae.__all__), ("training", training.__all__), ("vae_client", vae_client.__all__)]
)
def test_reference_has_each_public_name(site: Path, package: str, names: list[str]) -> None:
    page = (site / "docs" / "reference" / package / "index.html").read_text()
    assert not [name for name in names if f'id="{package}.{name}"' not in page]
