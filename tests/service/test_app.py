import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

import service
import vae
from service.inference.loading import StartError, load_checkpoint
from service.settings import BUNDLED, Settings
from tests.service.running import running
from vae.latents import LatentSet

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PACKAGE = Path(str(service.__file__)).parent
MODULES = sorted(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in PACKAGE.rglob("*.py"))

IMPORT = f"""
import json, logging, signal, sys, threading
seen = []
signals = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
def watch(event, arguments):
    if event in ("socket.bind", "socket.connect", "os.fork"):
        seen.append(event)
    if event == "open" and str(arguments[0]).endswith((".safetensors", ".pt")):
        seen.append(str(arguments[0]))
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        seen.append(str(arguments[0]))
sys.dont_write_bytecode = True
sys.addaudithook(watch)
for name in {MODULES!r}:
    __import__(name.removesuffix(".__init__"))
print(json.dumps({{
    "seen": seen,
    "threads": threading.active_count(),
    "handlers": len(logging.getLogger().handlers),
    "signals": signals == [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)],
    "modules": list(sys.modules),
}}))
"""


def test_importing_does_nothing_and_takes_no_training_dependency() -> None:
    ended = subprocess.run([sys.executable, "-c", IMPORT], cwd=ROOT, capture_output=True, text=True, check=True)
    done = json.loads(ended.stdout)
    assert done["seen"] == []
    assert done["threads"] == 1
    assert done["handlers"] == 0
    assert done["signals"]
    roots = {name.partition(".")[0] for name in done["modules"]}
    assert {"service", "vae", "torch", "fastapi"} <= roots
    assert not roots & {"training", "torchvision", "matplotlib", "plotly"}


def preflight(client: httpx.Client, origin: str) -> httpx.Response:
    headers = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type, x-api-key, authorization",
    }
    return client.options("/decode", headers=headers)


def test_no_other_site_may_call_by_default(client: httpx.Client) -> None:
    answer = preflight(client, "https://a.example")
    assert answer.status_code == 405
    for got in (answer, client.get("/model", headers={"origin": "https://a.example"})):
        assert not [name for name in got.headers if name.startswith("access-control")]


def test_named_sites_may_call() -> None:
    with running(cors_origins=("https://a.example",), api_keys=("key",)) as service:
        answer = preflight(service.client, "https://a.example")
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        assert "access-control-allow-origin" not in preflight(service.client, "https://b.example").headers
        headers = {"origin": "https://a.example", "x-api-key": "key"}
        sample = service.client.get("/sample", headers=headers)
        assert sample.headers["access-control-allow-origin"] == "https://a.example"
        assert "x-seed" in sample.headers["access-control-expose-headers"]
        refused = service.client.get("/sample", headers={"origin": "https://a.example"})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "https://a.example"


@pytest.mark.parametrize(
    ("host", "keys", "warned"),
    [("0.0.0.0", (), True), ("127.0.0.1", (), False), ("::1", (), False), ("0.0.0.0", ("hush",), False)],
)
def test_an_open_door_is_told(caplog: pytest.LogCaptureFixture, host: str, keys: tuple[str, ...], warned: bool) -> None:
    with caplog.at_level(logging.INFO), running(host=host, api_keys=keys):
        pass
    assert any("anyone who can reach" in record.message for record in caplog.records) == warned
    assert "hush" not in caplog.text
    assert "Serving " in caplog.text


def test_a_start_that_cannot_be_is_a_sentence(tmp_path: Path) -> None:
    starts: dict[str, dict[str, Any]] = {
        "The device mps cannot be used: ": {"device": "mps"},
        "its metadata lack format=vae-checkpoint": {"checkpoint": LatentSet.path_beside(BUNDLED)},
        "were computed with another checkpoint; remove the file.": {"checkpoint": tmp_path / "other.safetensors"},
    }
    vae.save(tmp_path / "other.safetensors", vae.VAE(vae.VAEConfig(hidden_dim=8)), training={}, metrics={})
    LatentSet.path_beside(tmp_path / "other.safetensors").write_bytes(LatentSet.path_beside(BUNDLED).read_bytes())
    for sentence, settings in starts.items():
        with pytest.raises(StartError, match=re.escape(sentence)):
            load_checkpoint(Settings(**settings))


def test_all_sites_may_call_but_never_with_credentials() -> None:
    with running(cors_origins=("*",)) as service:
        for answer in (
            preflight(service.client, "https://a.example"),
            service.client.get("/model", headers={"origin": "https://a.example", "cookie": "a=b"}),
        ):
            assert answer.headers["access-control-allow-origin"] == "*"
            assert "access-control-allow-credentials" not in answer.headers
