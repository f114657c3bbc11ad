"""docs/remote-vae.md against the code; test_diffusers.py runs its example."""

from __future__ import annotations

import re
from pathlib import Path

from service.api.remote.options import RemoteDecodeOptions
from service.app import OPERATIONS

PAGE = (Path(__file__).parents[4] / "docs" / "remote-vae.md").read_text()


def test_each_parameter_has_its_row() -> None:
    rows = PAGE.partition("| parameter |")[2].partition("\n\n")[0].splitlines()[2:]
    names = [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(names) == sorted(RemoteDecodeOptions.model_fields)


def test_the_addresses_are_routes() -> None:
    paths = set(re.findall(r"(?:HOST|localhost):8000(/remote/\w+)", PAGE))
    assert paths == {path for path in OPERATIONS if path.startswith("/remote")}
