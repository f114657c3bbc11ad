import gzip
import os
import zlib
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest

from service.formats.content_encoding import MEMBERS
from tests.service.memory import growth_below
from tests.service.problems import problem
from tests.service.running import running
from tests.zstandard import zstd

BODY = b"[0.1, 0.2, 0.3]"
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstd.compress,
}


def decode(client: httpx.Client, content: bytes, encoding: str) -> httpx.Response:
    return client.post(
        "/decode", content=content, headers={"content-type": "application/json", "content-encoding": encoding}
    )


@pytest.mark.parametrize("encoding", COMPRESS)
def test_a_compressed_body_is_what_it_holds(client: httpx.Client, encoding: str) -> None:
    plain = decode(client, BODY, "identity")
    assert plain.status_code == 200
    assert decode(client, BODY, "Identity").content == plain.content
    assert decode(client, COMPRESS[encoding](BODY), encoding).content == plain.content
    assert decode(client, COMPRESS[encoding](BODY), encoding.upper()).content == plain.content


@pytest.mark.parametrize("encoding", COMPRESS)
def test_the_limit_is_that_of_what_it_holds(encoding: str) -> None:
    compress = COMPRESS[encoding]
    with running(body_limit=1000) as service:
        assert decode(service.client, compress(BODY.ljust(1000)), encoding).status_code == 200
        assert (
            "once decompressed" in problem(decode(service.client, compress(BODY.ljust(1001)), encoding), 413)["detail"]
        )
        noise = np.random.default_rng(0).bytes(2000)
        problem(decode(service.client, compress(noise), encoding), 413)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_members_one_after_another_are_one_body(encoding: str) -> None:
    """As `cat a.gz b.gz` and pigz, `cat a.zst b.zst` and pzstd make them."""
    compress = COMPRESS[encoding]
    with running(body_limit=1000) as service:
        plain = decode(service.client, BODY, "identity").content
        parts = [compress(BODY[:7]), compress(b""), compress(BODY[7:])]
        assert decode(service.client, b"".join(parts), encoding).content == plain
        spaces = [compress(b" " * 400)] * 2
        assert decode(service.client, b"".join([*parts, *spaces]), encoding).status_code == 200
        problem(decode(service.client, b"".join([*parts, *spaces, *spaces]), encoding), 413)
        problem(decode(service.client, b"".join([*parts, compress(b"   ")[:-3]]), encoding), 400)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_members_are_counted(client: httpx.Client, encoding: str) -> None:
    empty = COMPRESS[encoding](b"") * (MEMBERS - 1)
    assert decode(client, empty + COMPRESS[encoding](BODY), encoding).status_code == 200
    assert encoding in problem(decode(client, empty + 2 * COMPRESS[encoding](BODY), encoding), 400)["detail"]


@pytest.mark.parametrize(("window_log", "status"), [(23, 200), (24, 400)])
def test_the_window_of_zstd_is_limited(client: httpx.Client, window_log: int, status: int) -> None:
    packer = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: window_log})
    assert decode(client, packer.compress(BODY) + packer.flush(), "zstd").status_code == status


def test_deflate_has_one(client: httpx.Client) -> None:
    problem(decode(client, zlib.compress(BODY) + zlib.compress(b" "), "deflate"), 400)


def bomb(encoding: str) -> bytes:
    """256 MB, made piece by piece: they shall not be in the memory that is looked at."""
    packers: dict[str, Any] = {
        "gzip": zlib.compressobj(wbits=31),
        "deflate": zlib.compressobj(),
        "zstd": zstd.ZstdCompressor(),
    }
    packer = packers[encoding]
    return b"".join(packer.compress(bytes(2**20)) for _ in range(256)) + bytes(packer.flush())


@pytest.mark.parametrize("encoding", COMPRESS)
def test_a_bomb_takes_no_memory(encoding: str, client: httpx.Client) -> None:
    packed = bomb(encoding)
    with growth_below(os.getpid(), 150):  # of which 32 are the limit
        problem(decode(client, packed, encoding), 413)


@pytest.mark.parametrize("encoding", COMPRESS)
def test_what_is_not_whole(client: httpx.Client, encoding: str) -> None:
    whole = COMPRESS[encoding](BODY)
    for bad in (b"", BODY, whole[:-3], whole[: len(whole) // 2], whole + b"more"):
        assert encoding in problem(decode(client, bad, encoding), 400)["detail"]


def test_other_encodings_are_named(client: httpx.Client) -> None:
    for other in ("br", "gzip, gzip"):
        answer = decode(client, BODY, other)
        assert "gzip, deflate, zstd" in problem(answer, 415)["detail"]
        assert answer.headers["accept-encoding"] == "gzip, deflate, zstd"
