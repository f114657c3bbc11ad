"""The application that Serve gets, without a cluster, which takes minutes: `python -m tests.ray`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

import vae
from service.inference.loading import StartError
from service.settings import SettingsError
from tests.ray.cluster import DEPLOY

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install -e .[ray]"),
    pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`"),  # from importing Ray
]


def deployment(**arguments: object) -> Any:
    from deploy.ray.application import build  # noqa: PLC0415 - imports Ray

    return build(arguments)._bound_deployment


def test_limits_come_from_the_settings() -> None:
    made = deployment(queue_limit=10, drain_time=7, torch_threads=3)
    assert (made.max_ongoing_requests, made.max_queued_requests) == (20, 10)
    assert made._deployment_config.graceful_shutdown_timeout_s == 7
    assert made.ray_actor_options["num_cpus"] == 3
    assert made.ray_actor_options["num_gpus"] == 0
    assert deployment(device="cuda").ray_actor_options["num_gpus"] == 1


def test_settings_are_read_when_the_application_is_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VAE_QUEUE_LIMIT", "5")
    monkeypatch.setenv("VAE_API_KEYS", "a,b")
    path = tmp_path / "small.safetensors"
    vae.save(path, vae.VAE(vae.VAEConfig(hidden_dim=8)), training={}, metrics={})
    (settings,) = deployment(checkpoint=path).init_args
    assert (settings.queue_limit, settings.checkpoint) == (5, path)
    assert [key.get_secret_value() for key in settings.api_keys] == ["a", "b"]
    with pytest.raises(SettingsError, match="queue_limit"):
        deployment(queue_limit=0)


def test_an_invalid_checkpoint_raises_before_replicas_start() -> None:
    with pytest.raises(StartError, match=r"nowhere\.safetensors"):
        deployment(checkpoint="nowhere.safetensors")


def test_a_diffusers_folder_is_a_checkpoint(tmp_path: Path) -> None:
    from tests.vae.autoencoder import write_folder  # noqa: PLC0415 - imports diffusers

    write_folder(tmp_path)
    (settings,) = deployment(checkpoint=tmp_path).init_args
    assert settings.checkpoint == tmp_path
    (tmp_path / "config.json").unlink()
    with pytest.raises(StartError, match=str(tmp_path)):
        deployment(checkpoint=tmp_path)


def test_the_configuration_file_is_valid() -> None:
    from ray.serve.schema import ServeDeploySchema  # noqa: PLC0415

    config = ServeDeploySchema.model_validate(yaml.safe_load((DEPLOY / "serve.yaml").read_text()))
    (application,) = config.applications
    (deployed,) = application.deployments
    assert deployed.name == deployment().name  # otherwise Serve ignores its options
    assert config.http_options.host == "127.0.0.1"
    assert deployed.autoscaling_config["max_replicas"] > deployed.autoscaling_config["min_replicas"]
