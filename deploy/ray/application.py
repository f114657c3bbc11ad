"""The service as an application of Ray Serve: `serve run deploy.ray.application:build`."""

from __future__ import annotations

from collections.abc import Mapping
from logging.config import dictConfig

from ray import serve

from service.api.application import Application
from service.app import create_app
from service.inference.loading import load_checkpoint
from service.processes.supervisor import STUCK_AFTER_S
from service.settings import Settings, read_settings
from service.telemetry.log_config import log_config
from vae.autoencoder_kl import load_diffusers
from vae.checkpoint import load

HEALTH_CHECK_EVERY_S = 5


class Replica:
    """A process that serves. Serve puts another in its place when it has died, or its event loop does not turn."""

    def __init__(self, settings: Settings) -> None:
        dictConfig(log_config(settings.log_level, settings.log_format))
        self._settings = settings

    def __serve_build_asgi_app__(self) -> Application:
        """Make the application; Serve runs its lifespan."""
        served = load_checkpoint(self._settings)
        return create_app(self._settings, lambda: served)

    async def check_health(self) -> None:
        """Return: the event loop, on which Serve runs this, turns."""


def build(arguments: Mapping[str, object]) -> serve.Application:
    """The application; `arguments` are settings, which go before the environment: `checkpoint=PATH`, `api_keys=A,B`.

    The settings are read once, here. Raises SettingsError, SystemExit for an unknown one, and CheckpointError: a wrong
    checkpoint takes no replica's place.
    """
    settings = read_settings([f"--{name.replace('_', '-')}={value}" for name, value in arguments.items()])
    read = load_diffusers if settings.checkpoint.is_dir() else load
    read(settings.checkpoint)
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name="vae",
        # The replica says no by itself, in the service's words, when its queue is full: Serve has to let more through.
        max_ongoing_requests=2 * settings.queue_limit,
        max_queued_requests=settings.queue_limit,
        ray_actor_options={
            "num_cpus": settings.torch_threads,
            "num_gpus": 1 if settings.device.startswith("cuda") else 0,
        },
        health_check_period_s=HEALTH_CHECK_EVERY_S,
        health_check_timeout_s=STUCK_AFTER_S,
        graceful_shutdown_timeout_s=settings.drain_time,
    )
    return deployment.bind(settings)
