from benchmarks.wrk import Load, parse

OUTPUT = """Running 1s test @ http://127.0.0.1:8000/decode
Requests/sec:   3588.16
{"requests": 3600, "seconds": 1.003300, "p50_ms": 8.490, "p99_ms": 30.500, "errors": 3}
"""


def test_what_the_script_prints_last_is_read() -> None:
    load = parse(OUTPUT, connections=32)
    assert load == Load(connections=32, requests=3600, seconds=1.0033, p50_ms=8.49, p99_ms=30.5, errors=3)
    assert round(load.rate) == 3588
