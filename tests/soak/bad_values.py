"""Valid and invalid values of which bad inputs are built."""

from __future__ import annotations

from collections.abc import Sequence

LATENT = b"[0.1, -0.2, 0.3]"
NPY_HEADER: dict[str, Sequence[str]] = {
    "descr": (
        *("'<f4'", "'>f8'", "'|u1'", "'<f2'", "'|O'", "'<U5'", "'<c8'", "'<i8'", "'|V3'", "'<M8[s]'", "'<f16'", "''"),
        *("'x'", "[('a', '<f4')]", "[]", "None", "3", "'<f4' * 9", "(" * 300),
    ),
    "fortran_order": ("False", "False", "True", "None", "3", "'no'"),
    "shape": (
        *("(3,)", "(2, 3)", "(28, 28)", "(1, 28, 28)", "(0, 3)", "()", "(-1, 3)", "(3.5,)", "('a',)", "3", "None"),
        *("(True,)", f"({2**63}, 3)", f"({10**30}, 3)", f"({2**32}, {2**32})", f"({'1, ' * 100})", "((3,),)"),
        "(10001, 3)",
    ),
}
NUMBERS = (0, 1, 2, 2**15, 2**31 - 1, 2**40, 2**63 - 1, 2**64 - 1)
SIZES = (0, 1, 12, 24, 784, 3136, 5000)
DOCUMENTS: dict[str, Sequence[bytes]] = {
    "/decode": (LATENT, b'{"z": [0.1, -0.2, 0.3]}', b"[[0.1, -0.2, 0.3], [0.5, 0, 3]]"),
    "/interpolate": (
        b'{"from": [0.1, 0, 1], "to": [1, 0.5, 0], "steps": 3, "method": "linear"}',
        b'{"from": [0.1, 0, 1], "to": [1, 0.5, 0], "method": "spherical"}',
    ),
    "/traverse": (
        b'{"at": [0.1, 0, 0.5], "dimensions": [0, 1], "low": -0.5, "high": 0.5, "steps": 3}',
        b'{"at": [0.1, 0, 0.5], "dimensions": [0]}',
    ),
}
INFERENCES = (
    b'{"inputs": [{"name": "z", "datatype": "FP32", "shape": [1, 3], "data": [0.1, 0, 1]}]}',
    b'{"id": "a", "inputs": [{"name": "z", "datatype": "FP32", "shape": [1, 3], '
    b'"parameters": {"binary_data_size": 12}}], "outputs": [{"name": "image", "parameters": {"binary_data": true}}]}',
    b'{"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 1, 28, 28], "data": [%b0.1]}]}' % (b"0," * 783),
)
TENSOR_SHAPES = (("1", "3"), ("2", "3"), ("1", "1", "28", "28"), ("3",))
TENSOR_NAMES = ("dtype", "do_scaling", "scaling_factor", "shift_factor", "output_type", "image_format", "height", "")
TENSOR_VALUES = (
    "float32",
    "float16",
    "bfloat16",
    "pt",
    "pil",
    "png",
    "true",
    "0",
    "-1",
    "nan",
    "1e400",
    "9" * 4000,
    "%00",
)
JSON_VALUES = (
    *("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e-999", "1e39", "-0", "0", "-1", "1000001", "true", "null"),
    *('""', '"NaN"', '"0.1"', r'"\ud800"', r'"\u0000"', "{}", "[]", "[[]]", "[[[0.1, 0.1, 0.1]]]", "[0.1, 0.1]", "01"),
    *("+1", "0x10", ".5", "1.", "1_0", "'a'", "nul", "\ufeff1", "9" * 400, "-" + "9" * 5000, "0." + "1" * 5000),
    *(
        "[" * 100,
        "[" * 100_000,
        '{"a":' * 20_000,
        "[" * 500 + "]" * 500,
        '"' + "x" * 50_000 + '"',
        "\ud800",
        "1 1",
        ",",
    ),
    *("[" + "0.1," * 10_000 + "0.1]", "[" + "[0,0,0]," * 10_001 + "[0,0,0]]", "10001", "1000000000000000000", "2.5"),
)
JSON_NAMES = (
    '"z"',
    '"at"',
    '"from"',
    '"to"',
    '"steps"',
    '"low"',
    '"__proto__"',
    '""',
    '"a/b~c"',
    r'"\u0000"',
    "z",
    "1",
)
QUERY_NAMES = (
    "n",
    "seed",
    "draws",
    "samples",
    "level",
    "map",
    "temperature",
    "columns",
    "scale",
    "fit",
    "invert",
    "draw",
    "steps",
    "z",
    "",
    "%00",
    "n%5B%5D",
)
QUERY_VALUES = (
    *("", "0", "1", "-1", "2", "7", "64", "65", "10001", "1e3", "1.0", "1.5", "+1", "%2B1", "0x1", "1_0", "%31", "%00"),
    *(
        "nan",
        "NaN",
        "inf",
        "-inf",
        "1e400",
        "1e-400",
        "1" + "0" * 18,
        "9" * 4301,
        "18446744073709551616",
        "true",
        "TRUE",
    ),
    *("cover", "stretch", "null", "None", "%F0%9F%92%A9", "%FF", "%ED%A0%80", "%0D%0Ax-a:1", "%", "%zz", "x" * 70_000),
)
METHODS = (
    b"GET",
    b"HEAD",
    b"POST",
    b"PUT",
    b"DELETE",
    b"OPTIONS",
    b"TRACE",
    b"CONNECT",
    b"PATCH",
    b"get",
    b"PRI",
    b"A" * 99,
)
TARGETS = (
    *(
        b"/",
        b"/encode",
        b"/decode",
        b"/sample",
        b"/model",
        b"/livez",
        b"/readyz",
        b"/metrics",
        b"/docs",
        b"/openapi.json",
    ),
    *(
        b"*",
        b"",
        b"//",
        b"//evil.example/",
        b"http://evil.example/",
        b"http://[::1",
        b"evil.example:80",
        b"?",
        b"#",
        b"/#a",
    ),
    *(b"/web/../../etc/passwd", b"/web/%2e%2e/%2e%2e/etc/passwd", b"/web/..%2f..%2fetc/passwd", b"/web//etc/passwd"),
    *(
        b"/web/main.js",
        b"/web/%00",
        b"/web/" + b"a" * 5000,
        b"/%ff%fe",
        b"/%",
        b"/a?b=c?d",
        b"/encode/",
        b"/" + b"a" * 70_000,
    ),
    *(
        b"/\x1b[31m",
        b"/a\tb",
        b"/a b",
        b"/\xff",
        b"/web/.",
        b"/web",
        b"/docs/oauth2-redirect",
        b"/static-offline-docs/x",
    ),
)
FIELDS = (
    *(
        b"content-length: 0",
        b"content-length: 5",
        b"content-length: -1",
        b"content-length: 1e3",
        b"content-length: +16",
    ),
    *(
        b"content-length: 99999999999999999999",
        b"content-length: 33554433",
        b"content-length: 16, 16",
        b"content-length:",
    ),
    *(b"transfer-encoding: chunked", b"transfer-encoding: xchunked", b"transfer-encoding: chunked, gzip"),
    *(
        b"transfer-encoding : chunked",
        b"\ttransfer-encoding: chunked",
        b"content-encoding: gzip",
        b"range: bytes=0-1,2-",
    ),
    *(
        b"content-type: ",
        b"content-type: image/png",
        b"content-type: application/pickle",
        b"content-type: multipart/form-data",
    ),
    *(
        b"content-type: application/json; charset=utf-16",
        b"content-type: application/x-npy",
        b"content-type: \xff/\xfe",
    ),
    *(
        b"accept: ",
        b"accept: text/html",
        b"accept: */*;q=nan",
        b"accept: image/png;q=2",
        b"accept: ;;,,;q",
        b"accept: *",
    ),
    *(b"accept: " + b"a/b;q=0.1," * 3000, b"authorization: Bearer \xff", b"authorization: Basic", b"x-api-key: \x00"),
    b"x: a\r\n" * 1000 + b"x: a",
    *(b"host: a/?x=", b"host: ", b"host: [", b"expect: 100-continue", b"expect: 200-ok", b"connection: upgrade"),
    *(b"upgrade: h2c", b"upgrade: websocket", b"connection: close", b"connection: \x0b", b"x: " + b"a" * 70_000),
    *(
        b"x-request-id: \x1b[31m",
        b"x-forwarded-for: 1.1.1.1",
        b'forwarded: for="',
        b": empty",
        b"no colon",
        b"a" * 70_000,
    ),
)
GREETINGS = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"SSH-2.0-OpenSSH_9.0\r\n",
    b"\r\n\r\n",
    b"EHLO evil.example\r\n",
    b"\x00" * 50,
)
