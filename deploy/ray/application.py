"""The service as an application of Ray Serve: `serve run deploy.ray.application:build`."""

from __future__ import annotations

from collections.abc import Mapping
from logging.config import dictConfig

from ray import serve

from service.api.application import Application
from service.app import create_app
from service.models.opening import open_models
from service.processes.supervisor import STUCK_AFTER_S
from service.settings import Settings, read_settings
from service.telemetry.log_config import log_config

HEALTH_CHECK_PERIOD_S = 5


class Replica:
    """One process of the service. Serve replaces it when it has exited or its event loop is blocked."""

    def __init__(self, settings: Settings) -> None:
        dictConfig(log_config(settings.log_level, settings.log_format))
        self._settings = settings

    def __serve_build_asgi_app__(self) -> Application:
        """Create the application; Serve runs its lifespan."""
        opened = open_models(self._settings)
        return create_app(self._settings, lambda: opened)

    async def check_health(self) -> None:
        """Return at once: that Serve's event loop runs this is the check."""


def build(arguments: Mapping[str, object]) -> serve.Application:
    """Build the application with its settings, which are read here for all replicas.

    Args:
        arguments: Settings, such as `checkpoint=PATH` or `api_keys=A,B`, which take precedence over the environment.

    Raises:
        SettingsError: A setting is not valid.
        SystemExit: A setting does not exist.
        StartError: The checkpoint cannot be loaded; no replica is replaced then.

    """
    settings = read_settings([f"--{name.replace('_', '-')}={value}" for name, value in arguments.items()])
    open_models(settings.model_copy(update={"device": "cpu"}))  # this machine may have no GPU
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name="vae",
        # More than the replica accepts, so that the replica rejects requests itself, with the service's error.
        max_ongoing_requests=2 * settings.queue_limit,
        max_queued_requests=settings.queue_limit,
        ray_actor_options={
            "num_cpus": settings.torch_threads,
            "num_gpus": 1 if settings.device.startswith("cuda") else 0,
        },
        health_check_period_s=HEALTH_CHECK_PERIOD_S,
        health_check_timeout_s=STUCK_AFTER_S,
        graceful_shutdown_timeout_s=settings.drain_time,
    )
    return deployment.bind(settings)
