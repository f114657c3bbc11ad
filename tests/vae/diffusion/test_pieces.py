"""Videos that are decoded piece by piece are those that are decoded whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.vae.diffusion.networks import WAN_RESIDUAL, create_network
from vae.diffusion.model import DiffusionModel

pytestmark = pytest.mark.slow

PIECES: list[tuple[str, dict[str, Any], int, list[int]]] = [
    ("AutoencoderKLWan", {}, 3, [1, 4, 4]),
    ("AutoencoderKLWan", WAN_RESIDUAL, 3, [1, 4, 4]),
    ("AutoencoderKLCogVideoX", {}, 5, [9, 8]),
    ("AutoencoderKLCogVideoX", {}, 4, [8, 8]),
    ("AutoencoderKLLTXVideo", {}, 2, [9]),
    ("AutoencoderKLHunyuanVideo", {}, 2, [5]),
]
"""Class, changes of its options, latent frames, and the frames of each piece."""


@pytest.mark.parametrize(("kind", "changes", "latent_frames", "lengths"), PIECES)
def test_pieces_are_the_video(kind: str, changes: dict[str, Any], latent_frames: int, lengths: list[int]) -> None:
    model = DiffusionModel(create_network(kind, **changes)).eval()
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(1, model.config.latent_shape[0], latent_frames, 2, 3, generator=generator)
    whole = model.decode(z)
    pieces: list[torch.Tensor] = []
    model.decode_pieces(z, pieces.append)
    assert [piece.shape[2] for piece in pieces] == lengths
    torch.testing.assert_close(torch.cat(pieces, 2), whole, rtol=0, atol=1e-6)
    torch.testing.assert_close(model.decode(z), whole, rtol=0, atol=1e-6)  # nothing is left behind


@pytest.mark.parametrize(("kind", "changes", "latent_frames", "lengths"), PIECES[:4])
def test_others_are_computed_between_two_pieces(
    kind: str, changes: dict[str, Any], latent_frames: int, lengths: list[int]
) -> None:
    """As the service does: neither the video nor what is computed in between depends on the other."""
    model = DiffusionModel(create_network(kind, **changes)).eval()
    generator = torch.Generator().manual_seed(1)
    z, other = torch.randn(2, 1, model.config.latent_shape[0], latent_frames, 2, 3, generator=generator)
    whole, expected = model.decode(z), model.decode(other)
    means, _ = model.encode(expected.clamp(0, 1))
    pieces: list[torch.Tensor] = []

    def take(frames: torch.Tensor) -> None:
        pieces.append(frames)
        torch.testing.assert_close(model.decode(other), expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(model.encode(expected.clamp(0, 1))[0], means, rtol=0, atol=1e-6)

    model.decode_pieces(z, take)
    assert [piece.shape[2] for piece in pieces] == lengths
    torch.testing.assert_close(torch.cat(pieces, 2), whole, rtol=0, atol=1e-6)


def test_frames_that_are_taken_are_not_kept() -> None:
    """What diffusers appends the pieces to stays empty."""
    model = DiffusionModel(create_network("AutoencoderKLWan")).eval()
    kept: list[int] = []
    decode_raw = model.decode_raw
    model.decode_raw = lambda z: kept.append(decode_raw(z).numel())  # type: ignore[method-assign, assignment, return-value]
    model.decode_pieces(torch.zeros(1, 4, 3, 2, 2), lambda _: None)
    assert kept == [0]


def test_an_error_ends_the_computation() -> None:
    model = DiffusionModel(create_network("AutoencoderKLWan")).eval()
    z, taken = torch.zeros(1, 4, 3, 2, 2), []

    def take(frames: torch.Tensor) -> None:
        taken.append(frames)
        raise InterruptedError

    with pytest.raises(InterruptedError):
        model.decode_pieces(z, take)
    assert len(taken) == 1
    assert model.decode(z).shape[2] == 9  # and the next one is whole
