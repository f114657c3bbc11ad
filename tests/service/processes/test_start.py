"""What the log says at a start, and what is imported then."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from service.malloc import GC_THRESHOLD
from service.settings import BUNDLED, Settings
from tests.service.running import running
from vae import load

ROOT = Path(__file__).parents[3]

RARE = ("prometheus_client", "pyarrow", "pydantic.v1", "service.api.openapi", "service.api.response_schemas", "torch")
CREATE = f"""
import sys
from service.app import create_app
from service.settings import read_settings
create_app(read_settings([]), lambda: None)
print([name for name in {RARE!r} if name in sys.modules])
"""
BEGIN = """
import gc, os, sys
sys.argv = ["vae-serve", "--port", "0", "--torch-threads", "3"]
sys.modules["service.processes.server"] = None  # importing it ends the start
from service.__main__ import main
try:
    main()
except ModuleNotFoundError:
    print("numpy" in sys.modules, os.environ["OPENBLAS_NUM_THREADS"], gc.get_threshold()[0])
"""


def test_the_start_logs_model_metrics_settings_and_address_and_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    keys = ("a secret", "another")
    with caplog.at_level(logging.INFO, "vae-service"), running(api_keys=keys, port=8765, queue_limit=7):
        pass
    checkpoint = load(BUNDLED)
    told = dict(record.getMessage().partition(": ")[::2] for record in caplog.records)
    assert told[f"Serving {BUNDLED} at 127.0.0.1:8765"] == (
        f"model {checkpoint.name}, version 1, architecture mlp, image_shape 1×28×28, latent_dim 3, "
        f"sha256 {checkpoint.sha256}, "
        f"service_version {version('vae-service')}."
    )
    assert json.loads(told["Metrics of the model mnist/1"]) == checkpoint.metrics
    settings = json.loads(told["Settings"])
    assert settings.keys() == Settings.model_fields.keys()
    assert (settings["port"], settings["queue_limit"], len(settings["api_keys"])) == (8765, 7, 2)
    assert not [key for key in keys if key in caplog.text]


def run(code: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def test_what_few_requests_need_is_not_imported_at_the_start() -> None:
    assert run(CREATE) == "[]"


def test_numpy_is_imported_once_its_threads_are_limited() -> None:
    assert run(BEGIN) == f"False 3 {GC_THRESHOLD}"
