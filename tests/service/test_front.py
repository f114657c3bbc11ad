import re

import httpx

from tests.live import live_server
from tests.service.running import wait_until


def test_every_exchange_has_its_line_whichever_way_it_took() -> None:
    with live_server() as server:
        png = httpx.post(f"{server.url}/decode", json=[0, 0, 0])
        refused = httpx.post(f"{server.url}/decode", json=[0, 0])
        page, lost = server.get("/"), server.get("/nowhere?seed=1")
        wait_until(lambda: "/nowhere" in server.log)
        for method, path, answer in (
            ("POST", "/decode", png),
            ("POST", "/decode", refused),
            ("GET", "/", page),
            ("GET", "/nowhere", lost),
        ):
            line = rf"127\.0\.0\.1 {method} {path} {answer.status_code}, {len(answer.content)} bytes in \d+\.\d ms$"
            assert re.search(line, server.log, re.MULTILINE)
        assert "seed" not in server.log
