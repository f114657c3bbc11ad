"""What callers hand over → bodies of requests."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    Array = npt.NDArray[Any] | torch.Tensor
    File = str | os.PathLike[str] | bytes
    """A path, or what such a file holds: an encoded picture, or an array in NumPy's .npy format."""
    ImageInput = Array | Image | File | Sequence[Array | Image | File]
    Numbers = Sequence[float] | Sequence["Numbers"]
    LatentInput = Array | File | Numbers | Sequence[Array]

NPY = "application/x-npy"
NPY_SIGNATURE = b"\x93NUMPY"
SIGNATURES = {
    b"\x89PNG": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"RIFF": "image/webp",
    b"GIF8": "image/gif",
    b"BM": "image/bmp",
}
PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
PNG_MODE_OF = {"F": "L", "La": "LA"}
"""The modes that others are sent as; what has neither is sent as RGB or RGBA."""


class Body(NamedTuple):
    """Of a request: `content` of one media type, or `files`, the parts of a form."""

    content: bytes | None
    media_type: str
    files: list[tuple[str, tuple[str, bytes, str]]] | None = None
    lone: bool = False
    """A batch of one, which the service may take for a single image: a form of one part, an array (1, H, W)."""


def is_tensor(thing: object) -> TypeGuard[torch.Tensor]:
    """Is it one of torch's? Without importing torch: whoever has a tensor has done so."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(thing, torch.Tensor)


def is_picture(thing: object) -> TypeGuard[Image]:
    """Is it one of Pillow's?"""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(thing, pillow.Image)


def image_body(images: ImageInput) -> Body:
    """Arrays go as npy, pictures as the files that they are."""
    if not isinstance(images, list | tuple):
        item = _load(images)
        return _npy(item) if isinstance(item, np.ndarray) else Body(item, _media_type(item))
    items = [_load(image) for image in images]
    arrays = [item for item in items if isinstance(item, np.ndarray)]
    pictures = [item for item in items if isinstance(item, bytes)]
    if arrays and pictures:
        raise TypeError(f"{len(arrays)} arrays and {len(pictures)} pictures are mixed; send a list of either.")
    if arrays:
        return _npy(np.stack(arrays))._replace(lone=len(arrays) == 1)
    if not pictures:
        raise ValueError("The list of images is empty.")
    files = [("image", ("image", picture, _media_type(picture))) for picture in pictures]
    return Body(None, "", files, lone=len(files) == 1)


def latent_body(z: LatentInput) -> Body:
    """Latents go as npy, float32."""
    return _npy(latent_array(z))


def latent_array(z: LatentInput) -> npt.NDArray[np.float32]:
    """Numbers in any of the forms in which latents are handed over."""
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and the service says so
        return np.asarray(_numbers(z), np.float32)


def _numbers(z: Any) -> Any:
    if isinstance(z, int | float | np.number):
        return z
    if isinstance(z, list | tuple):
        return [_numbers(item) for item in z]
    array = _load(z)
    if not isinstance(array, np.ndarray):
        raise TypeError("A picture is no latent; numbers, an array or an .npy file are wanted.")
    return array


def _load(item: Any) -> npt.NDArray[Any] | bytes:
    """An array, or the bytes of a picture."""
    if isinstance(item, np.ndarray):
        return item
    if is_tensor(item):
        tensor = item.detach().cpu()
        array: npt.NDArray[Any] = (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
        return array
    if is_picture(item):
        return _png(item)
    if isinstance(item, str | os.PathLike):
        item = Path(item).read_bytes()
    if not isinstance(item, bytes | bytearray | memoryview):
        raise TypeError(
            f"{type(item).__name__} cannot be sent; an array, a tensor, a PIL image, a path or bytes can, or a list of "
            "these."
        )
    file = bytes(item)
    if file.startswith(NPY_SIGNATURE):
        return np.asarray(np.load(io.BytesIO(file), allow_pickle=False))
    return file


def _png(image: Image) -> bytes:
    """A picture as a PNG that the service prepares as it would the picture.

    Samples of mode I are clipped to 16 bits, 0 to 65,535, those of mode F to 0 to 255; PNG knows neither.
    """
    from PIL import Image, ImageOps  # noqa: PLC0415  # Pillow is optional

    upright = ImageOps.exif_transpose(image)  # a PNG would not tell
    if upright.mode in PNG_MODE_OF:
        upright = upright.convert(PNG_MODE_OF[upright.mode])
    elif upright.mode.startswith("I") and upright.mode != "I;16":
        upright = Image.fromarray(np.asarray(upright).clip(0, 65535).astype(np.uint16))
    elif upright.mode not in PNG_MODES:
        upright = upright.convert("RGBA" if upright.has_transparency_data else "RGB")
    stream = io.BytesIO()
    upright.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _npy(array: npt.NDArray[Any]) -> Body:
    if array.dtype.hasobject:
        raise TypeError(f"An array of {array.dtype} cannot be sent; one of numbers is wanted.")
    if array.dtype.kind == "f" and array.dtype.itemsize > 4:
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)  # what the service computes in, at half the bytes
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return Body(stream.getvalue(), NPY)


def _media_type(picture: bytes) -> str:
    """Told by its first bytes; what is unknown here the service refuses, and says what it takes."""
    known = (media_type for signature, media_type in SIGNATURES.items() if picture.startswith(signature))
    return next(known, "application/octet-stream")
