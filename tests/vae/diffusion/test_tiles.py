"""Tiles against the same network computed whole."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from vae.diffusion.tiles import decode_tiles, encode_tiles
from vae.diffusion.tiling import OVERLAP, SIDE, Tiling

TILES_OF_96 = Tiling(stride=8, whole=0, side=96 * 8)
MARGIN = 2


def ignore() -> None:
    """Between two tiles."""


def decoder() -> nn.Module:
    """A decoder of stride 2 whose pixels depend on no latent further away than MARGIN positions."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1),
        nn.SiLU(),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(8, 3, 5, padding=2),
    ).requires_grad_(False)


@pytest.mark.parametrize(("length", "count", "size"), [(96, 1, 96), (97, 2, 57), (176, 2, 96), (177, 3, 70)])
def test_tiles_are_of_one_size_and_cover_the_image(length: int, count: int, size: int) -> None:
    spans = sorted({columns for _, columns in TILES_OF_96.tiles(1, length)})
    assert len(spans) == count
    assert {stop - start for start, stop in spans} == {size}
    assert (spans[0][0], spans[-1][1]) == (0, length)
    assert all(one[1] - other[0] >= OVERLAP // 8 for one, other in pairwise(spans))


def test_an_image_of_the_pixels_of_a_square_is_whole_whatever_its_shape() -> None:
    tiling = Tiling(stride=8)
    assert len(tiling.tiles(SIDE // 8, SIDE // 8)) == len(tiling.tiles(32, 512)) == 1
    assert len(tiling.tiles(SIDE // 8, SIDE // 8 + 1)) == 2
    assert len(tiling.tiles(256, 256)) == 9


@pytest.mark.parametrize("frames", [None, 2])
def test_decoded_tiles_join_to_the_whole(frames: int | None) -> None:
    network, tiling = decoder(), Tiling(stride=2, whole=0, side=32 * 2)
    z = torch.randn(2, 4, *([frames] if frames else []), 41, 70)

    def decode(z: Tensor) -> Tensor:
        if z.ndim == 4:
            images: Tensor = network(z)
            return images
        return torch.stack([network(frame) for frame in z.unbind(2)], 2)

    whole, tiled = decode(z), decode_tiles(decode, z, tiling, ignore)
    assert tiled.shape == whole.shape
    exact = torch.zeros(41, 70, dtype=torch.bool)  # in one tile, and far from the edges that only this tile has
    tiles = tiling.tiles(41, 70)
    assert len(tiles) == 6
    for (top, bottom), (left, right) in tiles:
        rows = slice(top + MARGIN * (top > 0), bottom - MARGIN * (bottom < 41))
        exact[rows, left + MARGIN * (left > 0) : right - MARGIN * (right < 70)] = True
    for number, one in enumerate(tiles):
        for other in tiles[number + 1 :]:
            (top, bottom), (left, right) = ((max(a[0], b[0]), min(a[1], b[1])) for a, b in zip(one, other, strict=True))
            if top < bottom and left < right:
                exact[top:bottom, left:right] = False
    assert exact.float().mean() > 0.4
    exact = exact.repeat_interleave(2, 0).repeat_interleave(2, 1)
    torch.testing.assert_close(tiled[..., exact], whole[..., exact], atol=1e-5, rtol=0)


def test_encoded_tiles_join_to_the_whole() -> None:
    x = torch.rand(1, 3, 8 * 50, 8 * 37)
    encode = partial(functional.avg_pool2d, kernel_size=8)
    torch.testing.assert_close(encode_tiles(encode, x, Tiling(8, 0, 160), ignore), encode(x))


def test_no_edge_is_visible_where_tiles_differ() -> None:
    """A network adds a constant to each tile, as its own statistics do; neighbours of pixels differ by little."""
    number = iter(range(100))

    def decode(z: Tensor) -> Tensor:
        return torch.full((1, 3, 8 * z.shape[2], 8 * z.shape[3]), next(number) % 2)

    tiled = decode_tiles(decode, torch.zeros(1, 4, 96, 256), TILES_OF_96, ignore)
    assert tiled.min() == 0
    assert tiled.max() == 1
    assert tiled.diff(dim=3).abs().max() <= 1.01 / OVERLAP


def test_half_precision_is_blended_in_float32() -> None:
    z = torch.rand(1, 4, 4, 200).bfloat16()
    tiled = decode_tiles(partial(torch.repeat_interleave, repeats=1, dim=3), z, Tiling(1, 0, 60), ignore)
    assert tiled.dtype == torch.float32
    torch.testing.assert_close(tiled, z.float(), atol=1e-6, rtol=0)


def test_the_computation_ends_between_two_tiles() -> None:
    calls: list[torch.Size] = []

    def stop() -> None:
        if len(calls) == 2:
            raise InterruptedError

    def decode(z: Tensor) -> Tensor:
        calls.append(z.shape)
        return z

    with pytest.raises(InterruptedError):
        decode_tiles(decode, torch.zeros(1, 1, 10, 10), Tiling(1, 0, 4), stop)
    assert calls == [(1, 1, 4, 4)] * 2
