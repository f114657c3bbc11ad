"""Choose the held-out images by a hash of their content: those with the lowest values.

The part of an image does not depend on other images or on file names: adding, renaming or moving pictures leaves all
others in their parts, and equal images share a part. The shares are therefore approximate.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

TEST_SHARE = 0.1
"""Approximate share of the test set in a folder or an array of images."""


@dataclass(frozen=True)
class Origin:
    """Identity of a data set and how it was split; a checkpoint records it."""

    fingerprint: str = ""
    """Fingerprint of all images, in any order; empty for a data set made in memory."""
    hashed: str = ""
    """What was hashed to choose the test images: `files` (their bytes) or `pixels`; empty for a separate test set."""
    test_share: float = 0.0
    """Approximate share of the test images; 0 for a separate test set."""


UNKNOWN = Origin()
"""Origin of a data set made in memory."""


def position(content: bytes | memoryview) -> float:
    """Hash `content` to a uniform number in [0, 1): 53 bits of BLAKE2b."""
    return (int.from_bytes(hashlib.blake2b(content, digest_size=8).digest()) >> 11) * 2.0**-53


def positions(images: Tensor) -> Tensor:
    """Return the `position` of each image: float64 (N,) for uint8 `images` (N, C, H, W) on the CPU."""
    rows = images.flatten(1).numpy()
    return torch.tensor([position(row.data) for row in rows], dtype=torch.float64)


def fingerprint(*parts: Tensor) -> str:
    """Hash the positions (N,) of each part of a data set, in any order, to 64 bits in hexadecimal."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.sort().values.numpy().tobytes())
    return digest.hexdigest()[:16]
