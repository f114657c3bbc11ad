"""Convert arguments to request bodies."""

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
    """A path, or a file's content: a picture, or an array in NumPy's .npy format."""
    ImageInput = Array | Image | File | Sequence[Array | Image | File]
    Numbers = Sequence[float] | Sequence["Numbers"]
    LatentInput = Array | File | Numbers | Sequence[Array]

NPY = "application/x-npy"
NPY_SIGNATURE = b"\x93NUMPY"
MEDIA_TYPES = {
    b"\x89PNG": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"RIFF": "image/webp",
    b"GIF8": "image/gif",
    b"BM": "image/bmp",
}
"""Signature of a file → its media type."""
PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
"""Modes of Pillow that PNG can hold."""
PNG_MODE_OF = {"F": "L", "La": "LA"}
"""Other modes and the one that they are converted to; all further modes become RGB or RGBA."""


class Body(NamedTuple):
    """A request body: `content` with its media type, or `files` of a multipart form."""

    content: bytes | None
    media_type: str
    files: list[tuple[str, tuple[str, bytes, str]]] | None = None
    single: bool = False
    """A batch of one that the service may take for a single image: a form of one part, or an array (1, H, W)."""
    length: int | None = None
    """Of the array along its first axis, N if it is a batch."""


def is_tensor(thing: object) -> TypeGuard[torch.Tensor]:
    """Return whether `thing` is a tensor, without importing torch: if it is one, torch has been imported."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(thing, torch.Tensor)


def is_picture(thing: object) -> TypeGuard[Image]:
    """Return whether `thing` is a PIL image, without importing Pillow."""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(thing, pillow.Image)


def image_body(images: ImageInput) -> Body:
    """Return the body for one image or a batch: arrays as npy, pictures as their files, unchanged.

    Raises:
        TypeError: An item is neither an array nor a picture, or the list has both.
        ValueError: The list is empty, its arrays differ in shape, or an .npy file is damaged.
        OSError: A file cannot be read.

    """
    if not isinstance(images, list | tuple):
        item = _load(images)
        return _npy(item) if isinstance(item, np.ndarray) else Body(item, _media_type(item))
    items = [_load(image) for image in images]
    arrays = [item for item in items if isinstance(item, np.ndarray)]
    pictures = [item for item in items if isinstance(item, bytes)]
    if arrays and pictures:
        raise TypeError(f"The list has {len(arrays)} arrays and {len(pictures)} pictures; send one of each kind.")
    if arrays:
        return _npy(np.stack(arrays))._replace(single=len(arrays) == 1)
    if not pictures:
        raise ValueError("The list of images is empty.")
    files = [("image", ("image", picture, _media_type(picture))) for picture in pictures]
    return Body(None, "", files, single=len(files) == 1, length=len(files))


def latent_body(z: LatentInput) -> Body:
    """Return the body for one latent or a batch: npy, float32."""
    return _npy(latent_array(z))


def latent_array(z: LatentInput) -> npt.NDArray[np.float32]:
    """Convert one latent or a batch to float32.

    Raises:
        TypeError: An item is neither numbers nor an array.
        ValueError: Lists differ in length, or an .npy file is damaged.
        OSError: A file cannot be read.

    """
    with np.errstate(over="ignore"):  # too large numbers become infinite, which the service rejects
        return np.asarray(_numbers(z), np.float32)


def _numbers(z: Any) -> Any:
    if isinstance(z, int | float | np.number):
        return z
    if isinstance(z, list | tuple):
        return [_numbers(item) for item in z]
    array = _load(z)
    if not isinstance(array, np.ndarray):
        raise TypeError("A picture is not a latent; pass numbers, an array or an .npy file.")
    return array


def _load(item: Any) -> npt.NDArray[Any] | bytes:
    """Return an array, or the content of a picture's file."""
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
            f"{type(item).__name__} cannot be sent; pass an array, a tensor, a PIL image, a path, bytes or a list of "
            "these."
        )
    file = bytes(item)
    if file.startswith(NPY_SIGNATURE):
        return np.asarray(np.load(io.BytesIO(file), allow_pickle=False))
    return file


def _png(image: Image) -> bytes:
    """Encode `image` as a PNG without loss, except for modes that PNG lacks.

    Values of mode I are clipped to 16 bits, 0 to 65,535, and those of mode F to 0 to 255.
    """
    from PIL import Image, ImageOps  # noqa: PLC0415 - Pillow is optional

    upright = ImageOps.exif_transpose(image)  # the PNG has no EXIF
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
        raise TypeError(f"An array of {array.dtype} cannot be sent; pass an array of numbers.")
    if array.dtype.kind == "f" and array.dtype.itemsize > 4:
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)  # the service's precision, in half the bytes
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return Body(stream.getvalue(), NPY, length=len(array) if array.ndim else None)


def _media_type(picture: bytes) -> str:
    """Return the media type by signature; the service rejects unknown ones, and lists those that it accepts."""
    known = (media_type for signature, media_type in MEDIA_TYPES.items() if picture.startswith(signature))
    return next(known, "application/octet-stream")
