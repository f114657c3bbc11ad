import sys
from pathlib import Path

import psutil
import pytest

from benchmarks.harness import pages
from benchmarks.harness.load import CALLS, Call, Load, ask, connect, parse, serving
from benchmarks.harness.pages import number, table
from benchmarks.harness.processes import launched, sampled_rss_mb

OUTPUT = """Running 1s test @ http://127.0.0.1:8000/decode
Requests/sec:   3588.16
{"requests": 3600, "seconds": 1.003300, "p50_ms": 8.490, "p99_ms": 30.500, "errors": 3}
"""
SERVER = """
import http.server, subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(999)"], start_new_session=True)
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""
"""With a process that has left its process group."""


def test_the_last_line_of_wrk_s_output_is_read() -> None:
    load = parse(OUTPUT)
    assert load == Load(requests=3600, seconds=1.0033, p50_ms=8.49, p99_ms=30.5, errors=3)
    assert round(load.rate) == 3588


def test_a_server_is_measured_and_stopped_with_all_its_processes() -> None:
    with serving([sys.executable, "-c", SERVER, "{port}"], 0, Call("GET", "/")) as (tree, port):
        processes = tree.processes()
        assert [process.cpu_affinity() for process in processes] == [[0], [0]]
        assert all(1 < megabytes < 100 for megabytes in tree.memory_mb())
        before = tree.cpu_seconds()
        with pytest.raises(RuntimeError, match="/livez was answered with 404"):
            ask(connect(port), CALLS["livez"])
        assert tree.cpu_seconds() >= before > 0
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)


def test_a_server_that_ends_is_reported_with_its_log() -> None:
    program = "raise SystemExit('no model here')"
    with (
        pytest.raises(RuntimeError, match="ended with status 1:\nno model here"),
        serving([sys.executable, "-c", program]),
    ):
        pytest.fail("It is not ready.")


def test_memory_is_sampled_while_a_process_runs() -> None:
    program = "import time; time.sleep(0.2); held = bytes(range(256)) * 400_000; time.sleep(0.3)"
    with launched([sys.executable, "-c", program]) as tree, sampled_rss_mb(tree.main.pid) as samples:
        tree.main.wait()
    assert max(samples) - samples[0] == pytest.approx(102.4, rel=0.3)


def test_a_table_aligns_numbers_to_the_right() -> None:
    assert table(("what", "ms"), [("decode", "1.5")]) == "| what | ms |\n| --- | ---: |\n| decode | 1.5 |"


@pytest.mark.parametrize(("value", "text"), [(12345.6, "12,346"), (-412.9, "-413"), (3, "3"), (0.98765, "0.988")])
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_a_section_replaces_its_own_text_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "HERE", tmp_path)
    page = tmp_path / "clients.md"
    page.write_text("# Other clients\n\n## One\n\nold\n\n## Two\n\nkept\n")
    pages.write_section("One", "one 5", "new")
    assert "old" not in page.read_text()
    assert "`python -m benchmarks.one 5` wrote this.\n\nnew\n\n## Two\n\nkept\n" in page.read_text()
