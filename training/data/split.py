"""Which images are held out: those whose content, hashed, gives the lowest numbers.

No other image has a say, so that a picture that is added, renamed or moved to another folder moves no other between the
parts, and equal pictures are always in the same part. Shares are approximate for that reason.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

TEST_SHARE = 0.1
"""Share of a user's own images that is kept for the test set, about."""


@dataclass(frozen=True)
class Origin:
    """What a checkpoint keeps of its data set, to tell it from others and to split it in the same way again."""

    fingerprint: str = ""
    """Of all its images, in any order; empty for a data set made in memory."""
    hashed: str = ""
    """What the test images are chosen by: `files` (their bytes), `pixels`; empty where they are a set of their own."""
    test_share: float = 0.0
    """Share that the test images are of all, about; 0 where they are a set of their own."""


UNKNOWN = Origin()
"""That of a data set made in memory."""


def position(content: bytes | memoryview) -> float:
    """A number in [0, 1), uniform over contents: 53 bits of their BLAKE2b hash."""
    return (int.from_bytes(hashlib.blake2b(content, digest_size=8).digest()) >> 11) * 2.0**-53


def positions(images: Tensor) -> Tensor:
    """`position` of each of the uint8 `images` (N, C, H, W) on the CPU: (N,) float64."""
    rows = images.flatten(1).numpy()
    return torch.tensor([position(row.data) for row in rows], dtype=torch.float64)


def fingerprint(*parts: Tensor) -> str:
    """64 bits, hexadecimal, of the positions (N,) of the images in each part of a data set, in any order."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.sort().values.numpy().tobytes())
    return digest.hexdigest()[:16]
