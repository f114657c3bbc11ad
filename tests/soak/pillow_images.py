"""The images of Pillow's tests, many of them damaged or hostile, from its source distribution.

Nothing of them is kept: they are downloaded by pip to a temporary folder, or read from the folder PILLOW_IMAGES.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tarfile
import tempfile
from functools import partial
from itertools import product
from pathlib import Path

import PIL

from tests.soak.attack_requests import IMAGE_TARGETS, Attack
from tests.soak.client import write_request
from tests.soak.plan import Findings

FOLDER = os.environ.get("PILLOW_IMAGES")
"""Pillow's source distribution, if it is here already."""
LARGEST = 2**25
"""Bytes of the largest image that is sent; a larger one would be refused for its size."""
DOWNLOAD_LIMIT_S = 300
MEDIA_TYPES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".gif": "gif", ".webp": "webp", ".bmp": "bmp"}
"""Media types by suffix. Other files are sent as PNG, since the service looks at the bytes."""


async def attacks(findings: Findings) -> list[Attack]:
    """Attacks of each image on each route, and why there are none if the images are not available."""
    if FOLDER:
        images = await asyncio.to_thread(_read_folder, Path(FOLDER))
    else:
        images = await _download(findings)
    return [
        Attack(f"Pillow's {name} to {target}", partial(_request, target, name, data))
        for (name, data), target in product(images.items(), IMAGE_TARGETS)
    ]


def _request(target: str, name: str, data: bytes) -> bytes:
    kind = MEDIA_TYPES.get(Path(name).suffix.lower(), "png")
    return write_request("POST", target, data, content_type=f"image/{kind}")


def _read_folder(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and 0 < path.stat().st_size < LARGEST)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


async def _download(findings: Findings) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"),
            *("--dest", folder, f"pillow=={PIL.__version__}"),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(DOWNLOAD_LIMIT_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        images = await asyncio.to_thread(_read_archives, Path(folder))
    if not images:
        findings.add_problem("Pillow's test images were left out: its source distribution could not be downloaded.")
    return images


def _read_archives(folder: Path) -> dict[str, bytes]:
    images = {}
    for archive in folder.glob("*.tar.gz"):
        with tarfile.open(archive) as files:
            for member in files:
                _, found, name = member.name.partition("/Tests/images/")
                if found and 0 < member.size < LARGEST and (file := files.extractfile(member)):
                    images[name] = file.read()
    return images
