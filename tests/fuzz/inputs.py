"""What is fed to the parsers: sound files, damaged ones, and bytes that have only the beginning of one."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st
from PIL import Image
from pyarrow import ipc
from safetensors.numpy import save

Bytes = st.SearchStrategy[bytes]


def _picture(file_format: str, mode: str, width: int = 12, height: int = 9) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 4), np.uint8)
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {} if file_format in ("GIF", "BMP") else {"exif": exif.tobytes()}
    Image.fromarray(noise, "RGBA").convert(mode).save(buffer, file_format, **options)
    return buffer.getvalue()


def _npy(dtype: str, shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(shape, dtype))
    return buffer.getvalue()


def _stream(columns: Mapping[str, Any], batches: int = 1, compression: str | None = None) -> bytes:
    batch, sink = pa.record_batch(dict(columns)), pa.BufferOutputStream()
    with ipc.new_stream(sink, batch.schema, options=ipc.IpcWriteOptions(compression=compression)) as writer:
        for _ in range(batches):
            writer.write_batch(batch)
    written: bytes = sink.getvalue().to_pybytes()
    return written


PICTURES = {
    "image/png": [_picture("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")],
    "image/jpeg": [_picture("JPEG", mode) for mode in ("L", "RGB", "CMYK")],
    "image/webp": [_picture("WEBP", mode) for mode in ("RGB", "RGBA")],
    "image/bmp": [_picture("BMP", mode) for mode in ("1", "L", "P", "RGB", "RGBA")],
    "image/gif": [_picture("GIF", mode) for mode in ("L", "P")],
}
"""Sound pictures of each media type."""
ARRAYS = [
    *(_npy(dtype, shape) for dtype in ("u1", "<f2", "<f4", ">f8") for shape in ((28, 28), (1, 28, 28), (2, 28, 28))),
    *(_npy(dtype, shape) for dtype in ("<f4", "<f8") for shape in ((3,), (2, 3))),
]
"""Sound npy files, images and latents."""
_Z, _X = np.zeros((2, 3), np.float32), np.zeros((2, 1, 28, 28), np.float32)
TENSORS = [
    *(save({"z": np.zeros(shape, dtype)}) for dtype in ("u1", "<f2", "<f4", "<f8", "<i4") for shape in ((3,), (2, 3))),
    save({"z": _Z, "pixels": _X, "mean": _Z}),
]
"""Sound safetensors files."""
_VECTORS = pa.array(_Z.tolist(), pa.list_(pa.float32(), 3))
STREAMS = [
    *(_stream({"z": _VECTORS.cast(pa.list_(kind, 3))}) for kind in (pa.float16(), pa.float32(), pa.float64())),
    _stream({"z": _VECTORS, "pixels": pa.FixedShapeTensorArray.from_numpy_ndarray(_X), "label": pa.array([1, 2])}, 2),
    _stream({"z": pa.array([[[1.0, 2, 3]]], pa.list_(pa.list_(pa.float32(), 3), 1))}),
    _stream({"z": pa.array([[1, 2, 3], None, [1, None, 3]], pa.list_(pa.float32(), 3))}),
    _stream({"z": _VECTORS}, compression="lz4"),
    _stream({"z": _VECTORS, "a": pa.array(["a", "b"]).dictionary_encode()}),
]
"""Arrow IPC streams, some of which are sound and are refused all the same."""
NAMED = {
    "application/x-safetensors": TENSORS,
    "application/vnd.apache.arrow.stream": STREAMS,
    "application/x-ndjson": [b"[0, 0, 0]\n[1, 2, 3]\n", b'{"z": [0, 0, 0]}'],
}
SEEDS = [*(picture for pictures in PICTURES.values() for picture in pictures), *ARRAYS]


@st.composite
def damaged(draw: st.DrawFn, sound: list[bytes]) -> bytes:
    """One of `sound` with up to eight places changed: flipped, cut out, put in, doubled; or its end lost."""
    body = bytearray(draw(st.sampled_from(sound)))
    for _ in range(draw(st.integers(0, 8))):
        at, length = draw(st.integers(0, len(body))), draw(st.integers(0, 64))
        match draw(st.sampled_from(("flip", "cut", "put", "double", "end"))):
            case "flip" if at < len(body):
                body[at] ^= draw(st.integers(1, 255))
            case "cut":
                del body[at : at + length]
            case "put":
                body[at:at] = draw(st.binary(max_size=16))
            case "double":
                body[at:at] = body[at : at + length]
            case "end":
                del body[at:]
    return bytes(body)


def pictures() -> Bytes:
    """Pictures, damaged ones, and what only begins like one."""
    sound = [picture for some in PICTURES.values() for picture in some]
    begun = st.tuples(st.sampled_from([picture[:20] for picture in sound]), st.binary(max_size=200)).map(b"".join)
    return damaged(sound) | begun | st.binary(max_size=100)


MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "BMP": ("1", "L", "P", "RGB"),
    "GIF": ("L", "P"),
}


@st.composite
def drawn(draw: st.DrawFn, file_format: str) -> bytes:
    """Sound pictures of a format: any mode, any size up to 40, any pixels."""
    width, height = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    mode = draw(st.sampled_from(MODES[file_format]))
    pixels = draw(st.binary(min_size=1, max_size=64))
    image = Image.frombytes("RGB", (width, height), (pixels * (3 * width * height))[: 3 * width * height])
    buffer = io.BytesIO()
    (image.convert("L") if mode == "I;16" else image).convert(mode).save(buffer, file_format)
    return buffer.getvalue()


@st.composite
def written(draw: st.DrawFn) -> bytes:
    """Sound npy files of images or latents, any numbers in them."""
    shape = draw(st.sampled_from([(28, 28), (1, 28, 28), (2, 28, 28), (3,), (1, 3), (4, 3)]))
    dtype = np.dtype(draw(st.sampled_from(["u1", "<f2", "<f4", ">f8"])))
    numbers = st.integers(0, 255) if dtype.kind == "u" else st.floats(0, 1) | st.floats(width=16)
    some = draw(st.lists(numbers, min_size=1, max_size=12))
    buffer = io.BytesIO()
    np.save(buffer, np.resize(np.array(some, dtype), shape))
    return buffer.getvalue()


def _with_header(version: int, header: str, data: bytes) -> bytes:
    line = header.encode("latin-1", "replace") + b"\n"
    length = struct.pack("<H" if version == 1 else "<I", len(line) & 0xFFFF)
    return b"\x93NUMPY" + bytes([version, 0]) + length + line + data


def arrays() -> Bytes:
    """Npy files: damaged ones, and ones whose header says anything."""
    number = st.one_of(st.integers(0, 4), st.sampled_from([-1, 28, 2**31, 2**63, 10**30, 10**4000, True, 1.5, None]))
    shape = st.lists(number, max_size=70).map(tuple) | number
    dtype = st.sampled_from(
        ["|u1", "<f4", ">f2", "<f8", "<f16", "|O", "<U3", "<M8[s]", "<f4,<f4", "f", "", "\0", "<i8"]
    )
    described = st.fixed_dictionaries(
        {
            "descr": dtype | st.just(("<f4", (2,))) | st.none(),
            "fortran_order": st.booleans() | st.none(),
            "shape": shape,
        }
    )
    header = st.one_of(described.map(_python), st.text(max_size=60), st.sampled_from(["(" * 5000, "-" * 5000 + "1"]))
    data = st.binary(max_size=48) | st.sampled_from([bytes(784), bytes(3136), b"\xff" * 48])
    return damaged(ARRAYS) | st.builds(_with_header, st.sampled_from([1, 2, 3, 9]), header, data)


def tensors() -> Bytes:
    """Safetensors files: damaged ones, and ones whose header says anything."""
    number = st.integers(0, 4) | st.sampled_from([-1, 28, 2**31, 2**63, 10**30, 1.5, None])
    described = st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "F16", "BF16", "U8", "I64", "BOOL", "F8_E4M3", "X", ""]),
            "shape": st.lists(number, max_size=70),
            "data_offsets": st.sampled_from([[0, 12], [0, 24], [0, 48], [12, 0], [0, 2**63], [0], [-1, 12], None]),
        }
    )
    names = st.sampled_from(["z", "pixels", "__metadata__", "", "é"])
    header = st.dictionaries(names, described | st.none() | st.dictionaries(names, names, max_size=2), max_size=3)
    written = st.one_of(header.map(json.dumps), st.text(max_size=60), st.sampled_from(["[" * 5000, '{"z":' * 5000]))
    length = st.sampled_from([None, 0, 2**16, 2**16 + 1, 2**63, 2**64 - 1])
    data = st.sampled_from([b"", bytes(12), bytes(24), b"\xff" * 48, bytes(2**17)])

    def file(header: str, length: int | None, data: bytes) -> bytes:
        head = header.encode()
        return struct.pack("<Q", len(head) if length is None else length) + head + data

    return damaged(TENSORS) | st.builds(file, written, length, data)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Arrow IPC streams: damaged ones, and ones in whose metadata other numbers stand."""
    body = bytearray(draw(damaged(STREAMS)))
    for _ in range(draw(st.integers(0, 4))):
        size = draw(st.sampled_from([2, 4, 8]))
        at = draw(st.integers(0, min(len(body), 1500) // size)) * size
        body[at : at + size] = draw(st.sampled_from([0, 1, 2, 2**15, 2**31 - 1, 2**40, 2**63 - 1, 2**64 - 1])).to_bytes(
            8, "little"
        )[:size]
    return bytes(body)


def _python(described: Mapping[str, Any]) -> str:
    shape = described["shape"]
    numbers = shape if isinstance(shape, tuple) else (shape,)
    texts = ["1" + "0" * 4000 if type(n) is int and n > 10**100 else repr(n) for n in numbers]
    listed = f"({', '.join(texts)},)" if isinstance(shape, tuple) and texts else "()" if not texts else texts[0]
    return f"{{'descr': {described['descr']!r}, 'fortran_order': {described['fortran_order']!r}, 'shape': {listed}}}"


def documents() -> Bytes:
    """JSON, nearly JSON, and latents in many forms."""
    number = st.one_of(
        st.floats(), st.floats(-10, 10), st.integers(), st.sampled_from([10**400, -(10**18), 1e39, 1e6, -1e6])
    )
    leaf = number | st.none() | st.booleans() | st.text(max_size=8)
    anything = st.recursive(
        leaf, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    )
    latent = st.lists(number, min_size=3, max_size=3)
    latents = latent | st.lists(latent, max_size=4)
    field = st.sampled_from(["z", "from", "to", "at", "steps", "method", "dimensions", "low", "high"])
    fields = st.dictionaries(field, latent | leaf | st.lists(st.integers(-1, 4), max_size=3), max_size=6)
    written = (latents | latents.map(lambda z: {"z": z}) | fields | anything).map(json.dumps).map(str.encode)
    return written | written.flatmap(lambda body: damaged([body])) | st.binary(max_size=40)


def forms(boundary: bytes) -> Bytes:
    """Multipart bodies of good and bad parts, whole and not."""
    head = st.sampled_from(
        [
            b'content-disposition: form-data; name="image"; filename="x"',
            b'content-disposition: form-data; name="image"',
            b'content-disposition: form-data; name="i"; filename="x"\r\ncontent-type: image/png',
            b"content-disposition: form-data; name=image; filename*=utf-8''%ff",
            b"content-disposition: attachment",
            b"content-type: text/plain",
            b"",
        ]
    )
    content = st.sampled_from(SEEDS) | pictures()
    part = st.tuples(head, content).map(lambda p: b"--%b\r\n%b\r\n\r\n%b\r\n" % (boundary, *p))
    whole = st.lists(part, max_size=4).map(lambda parts: b"".join(parts) + b"--%b--\r\n" % boundary)
    return whole | whole.flatmap(lambda body: damaged([body]))
