"""Large images in overlapping tiles, so that a network takes the memory of one tile.

The network computes each tile as an image of its own: its normalisation and attention see one tile alone. Neighbours
are blended linearly over their overlap, so that no edge is visible where they differ.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vae.diffusion.tiling import Span, Tiling

Compute = Callable[[Tensor], Tensor]


def decode_tiles(decode: Compute, z: Tensor, tiling: Tiling, between: Callable[[], None]) -> Tensor:
    """Decode latents (N, C', h, w) or (N, C', t, h, w) by `decode` to images (N, C, H, W) or videos (N, C, T, H, W).

    Args:
        decode: Returns the images of latents of any height and width, `tiling.stride` times as high and wide.
        z: Latents.
        tiling: Which tiles.
        between: Called between two tiles; what it raises ends the computation.

    Returns:
        What `decode` returns where there is one tile; otherwise float32, or float64 where that is the dtype.

    """
    return _compute_tiles(decode, z, tiling, between, 1, tiling.stride)


def encode_tiles(encode: Compute, x: Tensor, tiling: Tiling, between: Callable[[], None]) -> Tensor:
    """Encode images (N, C, H, W) or videos (N, C, T, H, W) by `encode`, as `decode_tiles` decodes."""
    return _compute_tiles(encode, x, tiling, between, tiling.stride, 1)


def _compute_tiles(
    compute: Compute, x: Tensor, tiling: Tiling, between: Callable[[], None], scale: int, output_scale: int
) -> Tensor:
    """Compute `x`, with `scale` values per latent position along both sides, to `output_scale` per position."""
    height, width = x.shape[-2] // scale, x.shape[-1] // scale
    tiles = tiling.tiles(height, width)
    if len(tiles) == 1:
        return compute(x)
    all_rows, all_columns = (sorted({tile[axis] for tile in tiles}) for axis in (0, 1))
    output: Tensor
    for index, (rows, columns) in enumerate(tiles):
        if index:
            between()
        tile = compute(x[..., _scaled(rows, scale), _scaled(columns, scale)])
        if not index:
            dtype = torch.promote_types(tile.dtype, torch.float32)
            output = tile.new_zeros((*tile.shape[:-2], height * output_scale, width * output_scale), dtype=dtype)
        weights = _weights(rows, all_rows, output_scale)[:, None] * _weights(columns, all_columns, output_scale)
        part = output[..., _scaled(rows, output_scale), _scaled(columns, output_scale)]
        part.addcmul_(tile.to(output.dtype), weights.to(output))
        del tile
    return output


def _scaled(span: Span, scale: int) -> slice:
    start, stop = span
    return slice(start * scale, stop * scale)


def _weights(span: Span, spans: list[Span], scale: int) -> Tensor:
    """Return the weight of each value along an axis of a tile; those of overlapping tiles sum to 1 everywhere."""
    start, stop = span
    index = spans.index(span)
    weights = torch.ones((stop - start) * scale)
    if index and (overlap := (spans[index - 1][1] - start) * scale):
        weights[:overlap] = (torch.arange(overlap) + 0.5) / overlap
    if index + 1 < len(spans) and (overlap := (stop - spans[index + 1][0]) * scale):
        weights[-overlap:] = 1 - (torch.arange(overlap) + 0.5) / overlap
    return weights
