"""Attacks as arrays: npy, safetensors, Arrow and tensors."""

from __future__ import annotations

import struct
from base64 import b64encode
from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
import pyarrow as pa
from pyarrow import ipc

from tests.soak.attack_requests import (
    ARROW,
    BASE64,
    INFER,
    OK,
    REFUSED,
    SAFETENSORS,
    SIZE,
    TENSOR,
    Attack,
    Make,
    is_slow,
    sent,
)
from tests.soak.attacks_json import VALUES, infer
from tests.soak.exchanges import JSON, NPY, npy


def npy_images(dtype: str, count: int = 10_000, order: str = "C", value: float = 0) -> bytes:
    array = np.full((count, 28, 28), value, dtype)
    return npy(np.asfortranarray(array) if order == "F" else array)


def npy_header(header: bytes, version: int = 1, data: bytes = b"", length: int | None = None) -> bytes:
    size = len(header) if length is None else length
    packed = struct.pack("<H" if version == 1 else "<I", size % (2**16 if version == 1 else 2**32))
    return b"\x93NUMPY" + bytes([version, 0]) + packed + header + data


def described(shape: str, dtype: str = "<f4", order: str = "False") -> bytes:
    return f"{{'descr': '{dtype}', 'fortran_order': {order}, 'shape': {shape}}}".encode()


NPYS: dict[str, Make] = {
    "10,000 images of float16": partial(npy_images, "<f2"),
    "10,000 images of float32": partial(npy_images, "<f4", 9_880),
    "4,900 images of float64": partial(npy_images, "<f8", 4_900),
    "4,900 images of big-endian float64": partial(npy_images, ">f8", 4_900),
    "4,900 images of float64, Fortran order": partial(npy_images, "<f8", 4_900, "F"),
    "10,000 images of float16, Fortran order": partial(npy_images, "<f2", 10_000, "F"),
    "10,000 images of bytes, Fortran order": partial(npy_images, "u1", 10_000, "F"),
    "39,000 images of bytes": partial(npy_images, "u1", 39_000),
    "4,900 images of NaN": partial(npy_images, "<f8", 4_900, value=float("nan")),
    "9,880 images of subnormal numbers": partial(npy_images, "<f4", 9_880, value=1e-40),
    "shape of a billion": partial(npy_header, described("(1000000000, 28, 28)", "|u1"), data=bytes(784)),
    "shape of 2**63": partial(npy_header, described("(9223372036854775808, 3)"), data=bytes(784)),
    "shape that overflows": partial(npy_header, described("(4294967296, 4294967296)"), data=bytes(784)),
    "a billion empty rows": partial(npy_header, described("(1000000000, 0, 28)")),
    "shape of 3,000 sides": partial(npy_header, described("(" + "1, " * 3_000 + ")"), data=bytes(4)),
    "shape of 4,000 digits": partial(npy_header, described("(" + "9" * 4_000 + ", 3)")),
    "brackets": partial(npy_header, b"(" * 65_000),
    "minus signs": partial(npy_header, b"-" * 60_000 + b"1"),
    "nested lists": partial(npy_header, b"[" * 5_000 + b"]" * 5_000),
    "nested dtypes": partial(
        npy_header, described("(3,)").replace(b"'<f4'", b"[('a', " * 900 + b"'<f4'" + b")]" * 900)
    ),
    "header of 30 MB": partial(npy_header, b" " * SIZE, 2),
    "header of 30 MB of nines": partial(npy_header, b"9" * SIZE, 2),
    "header longer than the file": partial(npy_header, b"", 2, length=2**32 - 1),
    "dtype of objects": partial(npy_header, described("(3,)", "|O"), data=b"cos\nsystem\n"),
    "dtype of 2**31 letters": partial(npy_header, described("(3,)", "<U2147483647"), data=bytes(99)),
}


def array_attacks() -> Iterator[Attack]:
    for number, (name, make) in enumerate(NPYS.items()):
        for target in ("/encode", "/reconstruct", "/decode"):
            request = partial(sent, target, make, NPY, "gzip")
            brief = target == ("/encode", "/reconstruct", "/decode")[number % 3] and not is_slow(name)
            yield Attack(f"npy, {name}, gzip, to {target}", request, times=8, brief=brief)
    for name, make in _safetensors().items():
        yield Attack(f"safetensors, {name}", partial(sent, "/decode", make, SAFETENSORS, "gzip"), brief="2**" in name)
        yield Attack(f"safetensors, {name}, to /encode", partial(sent, "/encode", make, SAFETENSORS, "gzip"))
    for name, make in _arrow().items():
        yield Attack(f"Arrow, {name}", partial(sent, "/decode", make, ARROW), brief="batches" in name)
        yield Attack(f"Arrow, {name}, to /encode", partial(sent, "/encode", make, ARROW, "gzip"))
    for dtype, size in (("float32", 4), ("float16", 2), ("bfloat16", 2)):
        count = min(10_000, SIZE // (784 * size))
        target = f"/remote/encode?shape={count}&shape=1&shape=28&shape=28&dtype={dtype}"
        request = partial(sent, target, partial(bytes, count * 784 * size), TENSOR, "gzip")
        yield Attack(f"tensor of {count:,} images of {dtype}", request, OK, times=8, brief=dtype == "float16")
        target = f"/remote/decode?shape=10000&shape=3&dtype={dtype}&output_type="
        for kind in ("pt", "pil&image_format=png", "pil", "pt&partial_postprocess=true"):
            request = partial(sent, target + kind, partial(bytes, 30_000 * size), TENSOR)
            yield Attack(
                f"tensor of 10,000 latents of {dtype}, {kind}",
                request,
                OK | {413},
                times=4,
                brief=kind == "pil" and size == 4,
            )
    target = "/remote/encode?shape=5000&shape=1&shape=28&shape=28"
    request = partial(sent, target, partial(_as_base64, 5000 * 784 * 4), BASE64, "gzip", accept=BASE64)
    yield Attack("tensor of 5,000 images as base64", request, OK, times=4, brief=True)
    for name, make in _base64().items():
        yield Attack(f"base64, {name}", partial(sent, "/remote/decode", make, BASE64, "gzip"), REFUSED, brief=True)
    images = {"name": "image", "datatype": "UINT8", "shape": [10_000, 1, 28, 28]}
    header = infer({**images, "parameters": {"binary_data_size": 7_840_000}})
    binary = partial(
        sent,
        INFER,
        partial(bytes, header + bytes(7_840_000)),
        JSON,
        "gzip",
        inference_header_content_length=str(len(header)),
    )
    yield Attack("10,000 images in binary", binary, OK, times=8)
    for length in ("0", "1", str(2**63), "9" * 18, str(SIZE)):
        request = partial(sent, INFER, VALUES["[0],[0],…"], JSON, "gzip", inference_header_content_length=length)
        yield Attack(f"JSON of {length} bytes, as its field says", request)


def _as_base64(size: int) -> bytes:
    return b'{"inputs":"%b"}' % b64encode(bytes(size))


def _base64() -> dict[str, Make]:
    return {
        "30 MB of quotation marks": lambda: b'{"inputs":' + b'"' * SIZE,
        "30 MB of escapes": lambda: b'{"inputs":"' + b"\\u0041" * (SIZE // 6) + b'"}',
        "30 MB outside of strings": lambda: b'{"inputs":"",' + b" " * SIZE + b"}",
        "parameters of 30 MB": lambda: b'{"inputs":"AAAA","parameters":' + VALUES["[0],[0],…"]() + b"}",
    }


def _safetensors() -> dict[str, Make]:
    def file(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
        return struct.pack("<Q", len(header) if length is None else length) + header + data

    tensor = b'{"dtype":"F32","shape":[%b],"data_offsets":[0,%d]}'
    return {
        "header of no bytes": lambda: file(b""),
        "header of 2**63": lambda: file(b"{}", length=2**63),
        "header of 2**64 - 1": lambda: file(b"{}", length=2**64 - 1),
        "header of 30 MB": lambda: file(b'{"z":' + b" " * SIZE),
        "half a million tensors": lambda: file(
            b"{" + b",".join(b'"%x":%b' % (number, tensor % (b"0", 0)) for number in range(500_000)) + b"}"
        ),
        "shape of a million": lambda: file(b'{"z":' + tensor % (b"1," * 1_000_000 + b"1", 4) + b"}", bytes(4)),
        "shape of 2**63": lambda: file(b'{"z":' + tensor % (b"9223372036854775807,9", 4) + b"}", bytes(4)),
        "empty lists": lambda: file(b'{"z":' + VALUES["[0],[0],…"]()),
        "offsets beyond the end": lambda: file(b'{"z":' + tensor % (b"1000000,3", 12_000_000) + b"}"),
        "metadata of a million keys": lambda: file(
            b'{"__metadata__":{' + b",".join(b'"%x":""' % number for number in range(1_000_000)) + b"}}"
        ),
        "10,000 images": lambda: file(
            b'{"pixels":{"dtype":"U8","shape":[10000,1,28,28],"data_offsets":[0,7840000]}}', bytes(7_840_000)
        ),
    }


def _arrow() -> dict[str, Make]:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(30_000, np.float32)), 3)

    def stream(columns: Mapping[str, object], batches: int = 1, compression: str | None = None) -> bytes:
        batch, sink = pa.record_batch(dict(columns)), pa.BufferOutputStream()
        with ipc.new_stream(sink, batch.schema, options=ipc.IpcWriteOptions(compression=compression)) as writer:
            for _ in range(batches):
                writer.write_batch(batch)
        written: bytes = sink.getvalue().to_pybytes()
        return written

    def lying(position: int, value: int) -> bytes:
        data = bytearray(stream({"z": vectors[:3]}))
        struct.pack_into("<i", data, position, value)
        return bytes(data)

    def zeros(count: int) -> object:
        return pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(3 * count, np.float32)), 3)

    return {
        "10,000 latents": lambda: stream({"z": vectors}),
        "ten million latents, zstd": lambda: stream({"z": zeros(10_000_000)}, compression="zstd"),
        "ten million latents, lz4": lambda: stream({"z": zeros(10_000_000)}, compression="lz4"),
        "20,000 batches of one": lambda: stream({"z": vectors[:1]}, 20_000),
        "990 empty batches": lambda: stream({"z": vectors[:0]}, 990),
        "20,000 empty batches": lambda: stream({"z": vectors[:0]}, 20_000),
        "5,000 columns": lambda: stream({f"a{number}": vectors[:1] for number in range(5_000)}),
        "a dictionary": lambda: stream({"z": vectors[:3], "a": pa.array(["x" * 1000] * 3).dictionary_encode()}, 1000),
        "metadata of 2**31": lambda: lying(4, 2**31 - 1),
        "metadata of -1": lambda: lying(4, -1),
        "schema that lies": lambda: lying(8, 2**30),
        "end at once": lambda: b"\xff\xff\xff\xff\0\0\0\0",
        "continuations": lambda: b"\xff\xff\xff\xff" * 5_000_000,
    }
