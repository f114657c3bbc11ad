"""Arrays in every format, by the libraries that callers have."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load, save

from service.api.offloading import Offloader
from service.api.request import Request
from service.api.responses import array_response
from service.formats.registry import ARRAY_FORMATS
from service.memory_budget import MemoryBudget
from tests.service.pictures import Bytes, npy, png, read_npy
from tests.service.problems import bad_fields, problem
from tests.service.running import Running, running

pa = pytest.importorskip("pyarrow")
ipc = pytest.importorskip("pyarrow.ipc")

JSON, NDJSON, PNG, NPY = "application/json", "application/x-ndjson", "image/png", "application/x-npy"
SAFETENSORS, ARROW = "application/x-safetensors", "application/vnd.apache.arrow.stream"
Array = NDArray[Any]
Arrays = dict[str, Array]


def stream(*batches: Any, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with ipc.new_stream(sink, batches[0].schema, options=ipc.IpcWriteOptions(**options)) as writer:
        for batch in batches:
            writer.write_batch(batch)
    body: bytes = sink.getvalue().to_pybytes()
    return body


def lists(array: Array) -> Any:
    """Rows as lists of fixed sizes in one another."""
    column = pa.array(array.reshape(-1))
    for size in reversed(array.shape[1:]):
        column = pa.FixedSizeListArray.from_arrays(column, size)
    return column


def arrow(array: Array, name: str = "a", **options: Any) -> bytes:
    return stream(pa.record_batch({name: lists(array)}), **options)


def tensors(array: Array) -> bytes:
    return stream(pa.record_batch({"a": pa.FixedShapeTensorArray.from_numpy_ndarray(array.copy())}))


def read_arrow(body: bytes) -> Arrays:
    table = ipc.open_stream(body).read_all().combine_chunks()
    found = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        chunk = column.chunk(0)
        if isinstance(chunk, pa.ExtensionArray):
            found[name] = chunk.to_numpy_ndarray()
        else:
            found[name] = np.array(chunk.to_pylist(), np.float32)
    return found


@dataclass(frozen=True)
class Kind:
    media_type: str
    write: Callable[[Array], bytes]
    read: Callable[[bytes], Arrays]


KINDS = {
    "npy": Kind(NPY, npy, lambda body: {"pixels": read_npy(body)}),
    "safetensors": Kind(SAFETENSORS, lambda array: save({"a": np.ascontiguousarray(array)}), load),
    "arrow": Kind(ARROW, arrow, read_arrow),
    "arrow tensors": Kind(ARROW, tensors, read_arrow),
}
TABLES = ("arrow", "arrow tensors")


def post(client: httpx.Client, path: str, body: bytes, sent: str, accept: str = JSON) -> httpx.Response:
    return client.post(path, content=body, headers={"content-type": sent, "accept": accept})


def asked(client: httpx.Client, path: str, accept: str, **options: Any) -> httpx.Response:
    answer = client.request(options.pop("method", "POST"), path, headers={"accept": accept}, **options)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == accept
    return answer


def equal(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """To the bit: JSON tells each float32 whole."""
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(np.asarray(found[name], np.float32), np.asarray(value, np.float32), name)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("dtype", ["u1", "f2", "f4", "f8"])
def test_images_come_in_every_format(client: httpx.Client, images: Bytes, kind: Kind, dtype: str) -> None:
    batch = images[:3, None] if dtype == "u1" else (images[:3, None] / 255).astype(dtype)
    expected = post(client, "/encode", npy(batch), NPY).json()
    equal(post(client, "/encode", kind.write(batch), kind.media_type).json(), expected)
    equal(post(client, "/encode", kind.write(batch[:, 0]), kind.media_type).json(), expected)  # (N, H, W): it is grey


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_latents_come_in_every_format(client: httpx.Client, name: str, dtype: str) -> None:
    kind, z = KINDS[name], np.random.default_rng(0).standard_normal((5, 3)).astype(dtype)
    equal(post(client, "/decode", kind.write(z), kind.media_type).json(), post(client, "/decode", npy(z), NPY).json())


@pytest.mark.parametrize("name", KINDS)
def test_a_single_one(client: httpx.Client, images: Bytes, name: str) -> None:
    """A table has rows, so that one row is a batch of one."""
    kind, is_table = KINDS[name], name in TABLES
    z, digit = np.array([0.1, -0.2, 0.3], np.float32), images[0, None]
    told = post(client, "/decode", kind.write(z[None] if is_table else z), kind.media_type).json()
    assert np.shape(told["pixels"]) == ((1,) if is_table else ()) + (1, 28, 28)
    told = post(client, "/encode", kind.write(digit[None] if is_table else digit), kind.media_type).json()
    assert np.shape(told["mean"]) == ((1, 3) if is_table else (3,))
    given = kind.read(post(client, "/decode", npy(z), NPY, kind.media_type).content)
    assert given["pixels"].shape == ((1,) if is_table else ()) + (1, 28, 28)
    if is_table:  # 28 rows of 28 numbers are no picture, nor are three numbers a latent
        problem(post(client, "/encode", kind.write(images[0]), kind.media_type), 422)
        assert "FixedSizeList" in problem(post(client, "/decode", arrow(z), ARROW), 422)["detail"]


@pytest.mark.parametrize("read", [load, read_arrow], ids=["safetensors", "arrow"])
def test_answers_have_all_that_json_has(client: httpx.Client, images: Bytes, read: Callable[[bytes], Arrays]) -> None:
    kind = SAFETENSORS if read is load else ARROW
    batch = {"content": npy(images[:3, None])}
    for path in ("/encode", "/encode?draw=true&seed=3", "/reconstruct", "/reconstruct?draw=true&seed=3"):
        expected = post(client, path, batch["content"], NPY).json()
        answer = post(client, path, batch["content"], NPY, kind)
        assert answer.headers["content-type"] == kind
        assert ("x-seed" in answer.headers) == ("seed" in path)
        found = read(answer.content)
        equal({name: found[name] for name in expected}, expected)
        assert len(found) == len(expected)
    walks: dict[str, dict[str, Any]] = {
        "/sample?n=4&seed=5": {"method": "GET"},
        "/interpolate": {"json": {"from": [0, 0, 0], "to": [1, 1, 1]}},
        "/traverse": {"json": {"at": [0, 0, 0], "dimensions": [0], "steps": 4}},
    }
    for path, options in walks.items():
        expected = asked(client, path, JSON, **options).json()
        found = read(asked(client, path, kind, **options).content)
        equal({name: found[name] for name in ("z", "pixels")}, {name: expected[name] for name in ("z", "pixels")})
        assert found.keys() == {"z", "pixels"}


def test_the_latents_of_the_test_set_in_each_format(client: httpx.Client) -> None:
    def ask(media_type: str) -> bytes:
        return asked(client, "/latents", media_type, method="GET").content

    expected = client.get("/latents").json()
    for found in (load(ask(SAFETENSORS)), read_arrow(ask(ARROW))):
        assert found.keys() == expected.keys()
        equal({name: found[name] for name in expected}, expected)
    rows = [json.loads(line) for line in ask(NDJSON).splitlines()]
    assert {name: [row[name] for row in rows] for name in expected} == expected
    np.testing.assert_array_equal(read_npy(ask(NPY)), np.array(expected["mean"], np.float32))


def test_a_single_answer_of_safetensors_has_json_shapes(client: httpx.Client, images: Bytes) -> None:
    for path in ("/encode", "/reconstruct"):
        expected = post(client, path, png(images[0]), PNG).json()
        found = load(post(client, path, png(images[0]), PNG, SAFETENSORS).content)
        assert {name: array.shape for name, array in found.items()} == {n: np.shape(v) for n, v in expected.items()}


def test_arrow_columns_are_what_arrow_has_for_them(client: httpx.Client, images: Bytes) -> None:
    body = post(client, "/reconstruct", npy(images[:2, None]), NPY, ARROW).content
    schema = ipc.open_stream(body).schema
    assert schema.field("mean").type == pa.list_(pa.float32(), 3)
    assert schema.field("elbo").type == pa.float32()
    assert schema.field("pixels").type == pa.fixed_shape_tensor(pa.float32(), [1, 28, 28])
    assert schema.field("pixels").type.storage_type.list_size == 784


@pytest.mark.parametrize("media_type", ARRAY_FORMATS)
def test_arrays_that_lie_otherwise_in_memory(media_type: str) -> None:
    array = np.random.default_rng(0).random((3, 2, 4, 6)).astype(np.float32).transpose(0, 1, 3, 2)[:, ::2]
    written = ARRAY_FORMATS[media_type].write({"pixels": array}, False)
    np.testing.assert_array_equal(ARRAY_FORMATS[media_type].read(written, "pixels"), array)


def test_what_came_out_goes_in(client: httpx.Client) -> None:
    """Of several arrays the one with the contract's name."""
    for kind in (SAFETENSORS, ARROW):
        sampled = asked(client, "/sample?n=3&seed=1", kind, method="GET")
        pixels = asked(client, "/sample?n=3&seed=1", JSON, method="GET").json()["pixels"]
        equal(post(client, "/decode", sampled.content, kind).json(), {"pixels": pixels})
        expected = post(client, "/encode", npy(np.float32(pixels)), NPY).json()
        equal(post(client, "/encode", sampled.content, kind).json(), expected)
        encoded = post(client, "/encode", npy(np.float32(pixels)), NPY, kind)
        assert "2 arrays" in problem(post(client, "/decode", encoded.content, kind), 422)["detail"]


def test_bfloat16(client: httpx.Client) -> None:
    torch, written = pytest.importorskip("torch"), pytest.importorskip("safetensors.torch")
    z = torch.tensor([[0.1, -0.2, 0.3], [1.5, 0, -1]], dtype=torch.bfloat16)
    expected = post(client, "/decode", npy(z.float().numpy()), NPY).json()
    equal(post(client, "/decode", written.save({"z": z}), SAFETENSORS).json(), expected)


def test_several_record_batches_are_one_batch(client: httpx.Client) -> None:
    z = np.random.default_rng(0).standard_normal((6, 3)).astype("f4")
    batches = [pa.record_batch({"z": lists(part)}) for part in (z[:1], z[1:1], z[1:])]
    expected = post(client, "/decode", npy(z), NPY).json()
    equal(post(client, "/decode", stream(*batches), ARROW).json(), expected)
    equal(post(client, "/decode", stream(*batches)[:-8], ARROW).json(), expected)  # the end need not be marked


def test_tensors_that_are_stored_in_another_order(client: httpx.Client, images: Bytes) -> None:
    stored = np.ascontiguousarray(images[:4].transpose(0, 2, 1)).reshape(4, -1)  # (N, W, H, C)
    kind = pa.fixed_shape_tensor(pa.uint8(), [28, 28, 1], permutation=[2, 1, 0])
    column = pa.ExtensionArray.from_storage(kind, lists(stored))
    expected = post(client, "/encode", npy(images[:4]), NPY).json()
    equal(post(client, "/encode", stream(pa.record_batch({"a": column})), ARROW).json(), expected)


Z = np.zeros((2, 3), np.float32)
GOOD = {SAFETENSORS: save({"z": Z}), ARROW: arrow(Z)}
NULLS = pa.array([[1, 2, 3], None], pa.list_(pa.float32(), 3))
NESTED_NULLS = pa.array([[1, 2, 3], [1, None, 3]], pa.list_(pa.float32(), 3))
DICTIONARY = pa.record_batch({"a": pa.array(["a", "b"]).dictionary_encode(), "z": lists(Z)})


def tall(body: bytes) -> bytes:
    """An Arrow stream of two rows of three numbers that tells of twenty."""
    start = body.index(b"\xff" * 4, 8)
    numbers = np.frombuffer(body[start:][: (len(body) - start) // 8 * 8], "<i8").copy()
    numbers[numbers == 6] = 60
    numbers[numbers == 2] = 20
    return body[:start] + numbers.tobytes()


def field(body: bytes, number: int) -> bytes:
    """A safetensors file whose header says it is longer or shorter."""
    return number.to_bytes(8, "little") + body[8:]


@pytest.mark.parametrize("kind", GOOD)
def test_what_is_not_whole(client: httpx.Client, kind: str) -> None:
    for bad in (b"", b"\x93NUMPY", GOOD[kind][: len(GOOD[kind]) // 2], GOOD[kind] + b"\0", npy(Z), b"[0, 0, 0]" * 9):
        for path in ("/encode", "/decode"):
            assert "The body is not" in problem(post(client, path, bad, kind), 400)["detail"]
    assert bad_fields(post(client, "/decode", save({"z": Z[:, :2]}), SAFETENSORS)) == [("body", "")]


def safetensors(shape: list[int], size: int) -> bytes:
    """A file of `size` bytes of zeros that are said to have `shape`."""
    header = json.dumps({"z": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(size)


BAD: dict[str, tuple[str, bytes, int, str]] = {
    "a header of more than there is": (SAFETENSORS, field(GOOD[SAFETENSORS], 10**6), 400, "not a whole safetensors"),
    "a long header": (SAFETENSORS, field(bytes(10**5), 2**14 + 1), 413, "larger than the 16384 bytes"),
    "many arrays": (SAFETENSORS, save({str(n): Z for n in range(2000)}), 413, "header"),
    "integers": (SAFETENSORS, save({"z": Z.astype("i4")}), 422, "dtype is I32; one of U8, F16"),
    "truths": (SAFETENSORS, save({"z": Z.astype("?")}), 422, "dtype is BOOL"),
    "no array": (SAFETENSORS, save({}), 422, "holds 0 arrays"),
    "65 dimensions": (SAFETENSORS, safetensors([1] * 65, 4), 400, "no array has the shape"),
    "long ones": (SAFETENSORS, safetensors([0, 2**63], 0), 400, "The body is not"),
    "not finite": (SAFETENSORS, save({"z": Z + np.inf}), 422, "not finite"),
    "not finite either": (ARROW, arrow(Z + np.nan), 422, "not finite"),
    "no rows": (ARROW, arrow(Z[:0]), 422, r"shape (0, 3)"),
    "no batches": (ARROW, stream(pa.record_batch({"z": lists(Z)}).slice(0, 0)), 422, "shape"),
    "nulls": (ARROW, stream(pa.record_batch({"z": NULLS})), 422, "holds nulls"),
    "nulls within": (ARROW, stream(pa.record_batch({"z": NESTED_NULLS})), 422, "holds nulls"),
    "arrow integers": (ARROW, arrow(Z.astype("i4")), 422, "FixedSizeList"),
    "lists of any size": (ARROW, stream(pa.record_batch({"z": pa.array(Z.tolist())})), 422, "list<"),
    "strings": (ARROW, stream(pa.record_batch({"z": pa.array(["a"])})), 422, "is of string"),
    "lz4": (ARROW, arrow(Z, compression="lz4"), 422, "buffers are compressed"),
    "zstd": (ARROW, arrow(Z, compression="zstd"), 422, "buffers are compressed"),
    "a dictionary": (ARROW, stream(DICTIONARY), 422, "has a dictionary"),
    "many columns": (ARROW, stream(pa.record_batch({str(n): lists(Z) for n in range(900)})), 413, "metadata"),
    "many batches": (ARROW, stream(*[pa.record_batch({"z": lists(Z)})] * 1001), 413, "1000 record batches"),
    "rows that are not there": (ARROW, tall(GOOD[ARROW]), 400, "cannot be read"),
    "a batch alone": (ARROW, pa.record_batch({"z": lists(Z)}).serialize().to_pybytes(), 400, "begin with a schema"),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_is_refused(client: httpx.Client, bad: str) -> None:
    kind, body, status, detail = BAD[bad]
    assert detail in problem(post(client, "/decode", body, kind), status)["detail"]


@pytest.fixture(scope="module")
def tight() -> Any:
    with running(batch_limit=4, body_limit=40_000) as service:
        yield service


@pytest.mark.parametrize("name", KINDS)
def test_the_limits_are_the_same(tight: Running, name: str) -> None:
    kind = KINDS[name]
    for count, status in ((4, 200), (5, 413)):
        answer = post(tight.client, "/decode", kind.write(np.zeros((count, 3), "f4")), kind.media_type, kind.media_type)
        assert answer.status_code == status
    large = kind.write(np.zeros((4, 28, 28), "f8"))[: 2**15] + bytes(2**15)
    assert "40000 bytes" in problem(post(tight.client, "/encode", large, kind.media_type), 413)["detail"]


def test_a_bomb_in_arrow_is_not_unpacked(served: Running) -> None:
    """A hundred megabytes of zeros, and what the memory of pyarrow has grown to."""
    bomb = arrow(np.zeros((9_000_000, 3), np.float32), compression="zstd")
    assert len(bomb) < 100_000
    before = pa.total_allocated_bytes()
    peak = pa.default_memory_pool().max_memory()
    problem(post(served.client, "/decode", bomb, ARROW), 422)
    assert pa.total_allocated_bytes() - before < 10**6
    assert pa.default_memory_pool().max_memory() == peak


def test_lines_are_latents(client: httpx.Client) -> None:
    z = [[0.1, -0.2, 0.3], [1, 0, -1], [0, 0, 0]]
    expected = post(client, "/decode", json.dumps(z).encode(), JSON).json()
    plain = "\n".join(map(json.dumps, z))
    named = "\r\n".join(json.dumps({"z": latent}) for latent in z) + "\r\n\r\n"
    for body in (plain, named):
        equal(post(client, "/decode", body.encode(), NDJSON).json(), expected)
    assert np.shape(post(client, "/decode", b"[0, 0, 0]", NDJSON).json()["pixels"]) == (1, 1, 28, 28)


def test_answers_in_lines(client: httpx.Client, images: Bytes) -> None:
    batch = npy(images[:3, None])
    for path in ("/encode", "/reconstruct?draw=true&seed=3"):
        answer = post(client, path, batch, NPY, NDJSON)
        assert answer.headers["content-type"] == NDJSON
        assert answer.text.endswith("}\n")
        rows = [json.loads(line) for line in answer.text.splitlines()]
        expected = post(client, path, batch, NPY).json()
        equal({name: [row[name] for row in rows] for name in expected}, expected)
        assert len(rows) == 3
    (single,) = post(client, "/encode", png(images[0]), PNG, NDJSON).text.splitlines()
    equal(json.loads(single), post(client, "/encode", png(images[0]), PNG).json())
    many = asked(client, "/sample?n=300&seed=1", NDJSON, method="GET").text.splitlines()
    assert len(many) == 300
    equal({"z": [json.loads(line)["z"] for line in many]}, {"z": read_z(client)})


@pytest.mark.parametrize("media_type", [JSON, NDJSON])
def test_a_large_answer_leaves_the_event_loop_free(media_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written in another thread, in pieces: orjson holds the GIL for each of them."""
    threads: list[threading.Thread] = []
    dumps = orjson.dumps

    def recorded(value: object, **options: Any) -> bytes:
        threads.append(threading.current_thread())
        return dumps(value, **options)

    async def write() -> None:
        state = {"memory": MemoryBudget(2**30), "offloader": Offloader()}
        request = Request({"headers": [], "app": SimpleNamespace(state=state)}, asyncio.Event().wait)  # type: ignore[arg-type]
        await array_response(request, media_type, {"pixels": np.zeros((500, 1, 28, 28), np.float32)}, single=False)

    monkeypatch.setattr(orjson, "dumps", recorded)
    asyncio.run(write())
    assert len(threads) > 3
    assert threading.current_thread() not in threads


def read_z(client: httpx.Client) -> Any:
    return asked(client, "/sample?n=300&seed=1", JSON, method="GET").json()["z"]


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        (b"", 422, "no lines"),
        (b"\n \n", 422, "no lines"),
        (b"[0, 0, 0]\n[0, 0", 400, "Line 2 of the body is not JSON"),
        (b"[0, 0, 0]\n\n[0, 0, 0], [0, 0, 0]", 400, "Line 3"),
        (b"[0, 0, 0]\n[0, 0]", 422, "this is a list of 2"),
        (b"[[0, 0, 0], [0, 0, 0]]", 422, "this is a list of 2"),
        (b'[0, 0, 0]\n{"z": [0, 0, 0], "y": 1}', 422, "'y' is not a field"),
        (b"[0, 0, NaN]", 422, "nan is not a finite number"),
        (b"[0, 0, 0]\n" * 10_001, 413, "10001 items"),
        (b"[" + b"0," * 50_001 + b"0]", 413, "The body has more than 50000 values"),
        ((b"[" + b"0," * 5001 + b"0]\n") * 10, 413, "The body has more than 50000 values"),
    ],
)
def test_bad_lines(client: httpx.Client, body: bytes, status: int, detail: str) -> None:
    assert detail in problem(post(client, "/decode", body, NDJSON), status)["detail"]


def test_lines_that_are_wrong_are_pointed_at(client: httpx.Client) -> None:
    body = b'[0, 0, 0]\n{"z": [0, "1", 0]}\n[0, 1e9, 0]'
    assert bad_fields(post(client, "/decode", body, NDJSON)) == [("body", "/1/z/1"), ("body", "/2/1")]


def test_only_latents_come_in_lines(client: httpx.Client) -> None:
    for path in ("/encode", "/interpolate"):
        problem(post(client, path, b"[0, 0, 0]", NDJSON), 415)


WITHOUT = """
import asyncio, sys
sys.modules["pyarrow"] = None
from service.api.bodies import read_latents
from service.limits import Limits
from service.api.request import Request
from service.errors import ServiceError
from service.api.negotiation import negotiate
arrow = "application/vnd.apache.arrow.stream"
call = Request({"headers": [(b"content-type", arrow.encode())]}, None)
post = read_latents(call, Limits(1, 1, 1), (3,))
for asked in (lambda: negotiate(arrow, ("application/json",)), lambda: asyncio.run(post)):
    try:
        asked()
    except ServiceError as error:
        print(int(error.status), error.detail)
print(negotiate(arrow + ", */*;q=0.1", ("application/json",)))
"""


def test_without_pyarrow_arrow_is_refused() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True)
    not_acceptable, unsupported, given = done.stdout.splitlines()
    assert not_acceptable.startswith("406")
    assert unsupported.startswith("415")
    assert all(line.endswith("pip install 'vae-service[arrow]'.") for line in (not_acceptable, unsupported))
    assert given == JSON
    assert "application/x-npy, application/x-safetensors." in unsupported


def test_arrow_that_unpacks_by_custom_metadata_is_refused(client: httpx.Client) -> None:
    """pyarrow honours an old key there, and unpacks to any size."""
    batch = pa.record_batch({"z": pa.FixedSizeListArray.from_arrays(pa.array([0.0, 0, 0], pa.float32()), 3)})
    sink = pa.BufferOutputStream()
    with ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch, custom_metadata={"ARROW:experimental_compression": "zstd"})
    problem(post(client, "/decode", sink.getvalue().to_pybytes(), ARROW), 422)


def test_subnormal_pixels_are_black(client: httpx.Client) -> None:
    """A processor takes a hundred times as long for them."""
    tiny, black = (npy(np.full((2, 28, 28), each, np.float32)) for each in (1e-40, 0))
    assert post(client, "/encode", tiny, NPY).content == post(client, "/encode", black, NPY).content


def test_latents_that_their_dtype_cannot_hold_are_told(client: httpx.Client, images: Bytes) -> None:
    target = "/remote/encode?dtype=float16&scaling_factor=1e6&shift_factor=-1e6"
    answer = post(client, target, png(images[0]), PNG, "tensor/binary")
    assert "range of float16" in problem(answer, 422)["detail"]


def test_blank_lines_are_no_items() -> None:
    with running(batch_limit=3) as service:
        for lines, status in (([b"[0,0,0]", b""] * 3, 200), ([b"[0,0,0]"] * 4, 413), ([b""] * 20, 413)):
            assert post(service.client, "/decode", b"\n".join(lines), NDJSON).status_code == status
