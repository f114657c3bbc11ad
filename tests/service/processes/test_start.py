"""What the log says at a start."""

from __future__ import annotations

import json
import logging
from importlib.metadata import version

import pytest

from service.settings import BUNDLED, Settings
from tests.service.running import running
from vae import load


def test_the_start_logs_model_metrics_settings_and_address_and_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    keys = ("a secret", "another")
    with caplog.at_level(logging.INFO, "vae-service"), running(api_keys=keys, port=8765, queue_limit=7):
        pass
    checkpoint = load(BUNDLED)
    told = dict(record.getMessage().partition(": ")[::2] for record in caplog.records)
    assert told[f"Serving {BUNDLED} at 127.0.0.1:8765"] == (
        f"name {checkpoint.name}, architecture mlp, image_shape 1×28×28, latent_dim 3, sha256 {checkpoint.sha256}, "
        f"version {version('vae-service')}."
    )
    assert json.loads(told["Metrics of the model"]) == checkpoint.metrics
    settings = json.loads(told["Settings"])
    assert settings.keys() == Settings.model_fields.keys()
    assert (settings["port"], settings["queue_limit"], len(settings["api_keys"])) == (8765, 7, 2)
    assert not [key for key in keys if key in caplog.text]
