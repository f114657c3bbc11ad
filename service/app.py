"""create_app: assembles the service; nothing else does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import numpy as np
import orjson
from PIL import Image
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Mount, Route, Router

from service import errors
from service.api import open_inference, paths, probes, routes, small_operations
from service.api.admission import Admission
from service.api.application import Application, path_below_root
from service.api.context import ModelContext
from service.api.documentation import Documentation
from service.api.etags import CacheableOperation, model_digest
from service.api.events import EVENTS, EventOperation
from service.api.offloading import Offloader
from service.api.operation import NO_STORE, AccessControl, Operation, Probe
from service.api.page import read_page
from service.api.remote.decode import decode as remote_decode
from service.api.remote.encode import encode as remote_encode
from service.api.responses import error_response
from service.api.small_operations import SmallOperation
from service.api.small_requests import make_plan
from service.http.fast_path import FastPath
from service.http.inbox import Inbox
from service.http.timeouts import Timeouts
from service.inference.engine import Engine
from service.inference.loading import Load, LoadedModel, StartError, load_checkpoint
from service.keys import Keyring
from service.malloc import map_large_blocks
from service.memory_budget import MemoryBudget
from service.settings import Settings, read_settings
from service.telemetry.access_log import AccessLog
from service.telemetry.prometheus import Metrics
from service.telemetry.shared_memory import SharedSnapshots
from service.telemetry.tracing import Tracer
from service.version import VERSION
from vae.calibration import Calibration
from vae.config import VAEConfig
from vae.diffusion.config import DiffusionConfig

logger = logging.getLogger("vae-service")

VERSIONS = ("", "/versions/{version}")
OPERATIONS: dict[str, tuple[str, Callable[..., Awaitable[Response]]]] = {
    "/encode": ("POST", routes.encode),
    "/decode": ("POST", routes.decode),
    "/reconstruct": ("POST", routes.reconstruct),
    "/score": ("POST", routes.score),
    "/sample": ("GET", routes.sample),
    "/interpolate": ("POST", paths.interpolate),
    "/traverse": ("POST", paths.traverse),
    "/latents": ("GET", routes.latents),
    "/model": ("GET", routes.model),
    "/remote/decode": ("POST", remote_decode),
    "/remote/encode": ("POST", remote_encode),
}
QUERIES: dict[str, Callable[..., Awaitable[Response]]] = {
    "/interpolate": paths.interpolate_query,
    "/traverse": paths.traverse_query,
}
"""What answers GET where OPERATIONS has POST."""
CHECKS: dict[str, Callable[..., str]] = {
    "/sample": routes.check_sample,
    "/interpolate": paths.check_interpolation,
    "/traverse": paths.check_traversal,
    "/latents": routes.check_latents,
    "/model": routes.check_model,
}
"""What is checked of requests by GET before their ETag is known."""
SMALL: dict[str, Callable[..., SmallOperation | None]] = {
    "/encode": small_operations.encode,
    "/decode": small_operations.decode,
    "/reconstruct": small_operations.reconstruct,
}
"""What the fast path takes."""
INFERENCE: dict[str, tuple[str, Callable[..., Awaitable[Response]]]] = {
    "/v2": ("GET", open_inference.server),
    **{f"/v2/models/{{name}}{version}": ("GET", open_inference.model) for version in VERSIONS},
    **{f"/v2/models/{{name}}{version}/ready": ("GET", open_inference.model_ready) for version in VERSIONS},
    **{f"/v2/models/{{name}}{version}/infer": ("POST", open_inference.infer) for version in VERSIONS},
}
LOOPBACK = ("127.0.0.1", "::1", "localhost")
CORS_REQUEST_HEADERS = (
    "authorization",
    "content-encoding",
    "content-type",
    "if-none-match",
    "x-api-key",
    open_inference.JSON_LENGTH,
)
CORS_RESPONSE_HEADERS = (
    "etag",
    "x-seed",
    "x-request-id",
    "server-timing",
    "retry-after",
    "shape",
    "dtype",
    open_inference.JSON_LENGTH,
)
"""Header fields that pages of other sites may send, and read."""


def create_app(
    settings: Settings | None = None, load: Load | None = None, metrics: Metrics | None = None
) -> Application:
    """Create the service as an ASGI application for any server; its lifespan loads the checkpoint.

    Without `settings` they are read from the environment, so that this is a factory for servers other than vae-serve:
    `uvicorn --factory service.app:create_app`. Address, workers and time limits of connections are then the server's.

    `load` replaces `load_checkpoint`. `metrics` is given where several workers share counters.

    Raises SettingsError for a wrong environment variable.
    """
    address = f" at {settings.address}" if settings else ""  # another server listens where its own options say
    settings = settings or read_settings([])
    metrics = metrics or Metrics(SharedSnapshots(1), 0)
    tracer = _tracer() if settings.tracing else None
    keyring = Keyring(settings.keys)
    admission = Admission(
        queue_limit=settings.queue_limit,
        keys=len(keyring),
        deadline=settings.request_deadline,
    )
    memory = MemoryBudget(settings.memory_limit)
    access_log = AccessLog(settings.log_format) if settings.log_level in ("debug", "info") else None
    map_large_blocks()
    Image.MAX_IMAGE_PIXELS = None  # the limits of settings apply instead

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, object]]:
        loaded = load() if load else load_checkpoint(settings)
        metadata, latents = loaded.checkpoint.metadata, loaded.checkpoint.latents
        engine = Engine(
            loaded.backend,
            micro_batch_limit=settings.micro_batch_limit,
            deadline=settings.request_deadline,
            threaded={"inline": False, "thread": True, "auto": None}[settings.compute],
            counters=metrics.counters,
            on_batch=tracer.trace_batch if tracer else None,
        )
        offloader = app.state.offloader = Offloader()
        model_json = _model_json(loaded)
        latents_json = orjson.dumps(latents, option=orjson.OPT_SERIALIZE_NUMPY) if latents else None
        app.state.model_context = ModelContext(
            metadata.name,
            engine,
            metadata.fit,
            settings.limits,
            metadata.calibration,
            metadata.references,
            model_json,
            latents,
            latents_json,
            model_digest(model_json, latents_json),
            metrics,
            settings.metrics == "key",
        )
        metrics.info = _model_info(loaded)
        metrics.gauges = {
            "vae_queue_rows": ("Images and latents that wait to be computed", lambda: engine.waiting),
            "vae_requests_in_flight": ("Requests let in and not answered yet", lambda: admission.confirmed),
            "vae_places": ("Requests that may be in flight", lambda: settings.queue_limit),
            "vae_memory_bytes": ("Memory that requests take, and answers that wait to be read", lambda: memory.used),
            "vae_memory_limit_bytes": ("Memory that requests may take", lambda: memory.limit),
        }
        metrics.keep_publishing()
        model = ", ".join(f"{label} {value}" for label, value in metrics.info.items())
        logger.info("Serving %s%s: %s.", settings.checkpoint, address, model)
        logger.info("Metrics of the model: %s", orjson.dumps(metadata.metrics).decode())
        logger.info("Settings: %s", settings.model_dump_json())
        if not (keyring or (address and settings.host in LOOPBACK)):
            logger.warning("No VAE_API_KEYS are set: anyone who can reach the service%s may call it.", address)
        admission.start()
        is_fast = engine.is_inline and settings.compute == "auto"  # a slow model needs deadlines
        fast_path = FastPath(partial(make_plan, application))
        yield {
            "admission": admission,
            "memory": memory,
            "fast_path": fast_path if is_fast and not (tracer or settings.cors_origins) else None,
            "inbox": Inbox(asyncio.get_running_loop(), settings.micro_batch_limit),
            "timeouts": Timeouts(settings.client_timeout, settings.keep_alive),
            "record_refusal": application.record_refusal,
        }
        engine.close()
        offloader.close()
        if access_log:
            access_log.flush()
        if tracer:
            await tracer.close()

    page = read_page()
    described = _routes(settings)
    app = Starlette(
        routes=[
            *described,
            *Documentation(described, page.icon).routes,
            Mount("/web", Router(page.files, redirect_slashes=False)),
            Route("/", page.home),
        ],
        exception_handlers=dict.fromkeys((errors.ServiceError, HTTPException, Exception), _error_response),
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # a redirect would go to any address in the Host header
    app.state.memory = memory
    app.state.access_control = AccessControl(keyring, admission, metrics.counters)
    application = Application(
        app, cors=_cors(app, settings), access_log=access_log, counters=metrics.counters, tracer=tracer
    )
    return application


def _routes(settings: Settings) -> list[BaseRoute]:
    handlers = {"/livez": probes.livez, "/readyz": probes.readyz}
    handlers |= {"/v2/health/live": open_inference.live, "/v2/health/ready": open_inference.ready}
    if settings.metrics != "off":
        handlers["/metrics"] = probes.metrics
    return [
        *(
            CacheableOperation(path, handler, CHECKS[path])
            if method == "GET"
            else (EventOperation if path in EVENTS else Operation)(path, handler, [method], SMALL.get(path))
            for path, (method, handler) in OPERATIONS.items()
        ),
        *(CacheableOperation(path, handler, CHECKS[path]) for path, handler in QUERIES.items()),
        *(open_inference.InferenceOperation(path, handler, [method]) for path, (method, handler) in INFERENCE.items()),
        *(Probe(path, handler) for path, handler in handlers.items()),
    ]


def _cors(app: Starlette, settings: Settings) -> CORSMiddleware | None:
    if not settings.cors_origins:
        return None
    return CORSMiddleware(
        app,
        allow_origins=settings.cors_origins,
        allow_methods=["GET", "HEAD", "POST"],
        allow_headers=CORS_REQUEST_HEADERS,
        expose_headers=CORS_RESPONSE_HEADERS,
    )


def _tracer() -> Tracer:
    try:
        return Tracer(VERSION)
    except ImportError as error:
        raise StartError("For tracing, install OpenTelemetry: pip install 'vae-service[otel]'.") from error


async def _error_response(request: Request, error: Exception) -> Response:
    write = open_inference.error_response if f"{path_below_root(request.scope)}/".startswith("/v2/") else error_response
    response = write(_translate(request, error))
    if isinstance(error, errors.Unauthorized):
        response.raw_headers.append(NO_STORE)
    return response


def _translate(request: Request, error: Exception) -> errors.ServiceError:
    """Return any exception as a ServiceError."""
    path = request.scope["path"]
    match error:
        case errors.ServiceError():
            return error
        case HTTPException(status_code=404):
            return errors.NotFound(f"There is no {path} here; /docs lists all routes.")
        case HTTPException(status_code=405):
            allow = ", ".join(sorted(_methods(request) or (error.headers or {}).get("Allow", "GET, HEAD").split(", ")))
            return errors.MethodNotAllowed(
                f"{path} does not take {request.method}; it takes {allow}.", headers={"Allow": allow}
            )
        case _:
            return errors.InternalError()


def _methods(request: Request) -> set[str]:
    """Return what all routes at a path take, where Starlette's error has what the first of them takes."""
    routes = (route for route in request.app.routes if isinstance(route, Route))
    return {
        method for route in routes if route.matches(request.scope)[0] is Match.PARTIAL for method in route.methods or ()
    }


def _model_json(loaded: LoadedModel) -> bytes:
    metadata, config = loaded.checkpoint.metadata, loaded.backend.config
    return orjson.dumps(
        {
            "name": metadata.name,
            **{name: getattr(config, name) for name in ("architecture", "likelihood", "image_shape", "latent_shape")},
            **_diffusion(config),
            "dtype": config.dtype,
            "latent_dim": config.latent_shape[0] if len(config.latent_shape) == 1 else None,
            "parameters": loaded.checkpoint.parameters,
            **{name: getattr(metadata, name) for name in ("sha256", "format_version", "training")},
            "figures": metadata.metrics,
            "calibration": _calibration(metadata.calibration),
        }
    )


def _diffusion(config: VAEConfig | DiffusionConfig) -> dict[str, object]:
    """The fields that only autoencoders of diffusion models have; the others' are null."""
    if not isinstance(config, DiffusionConfig):
        return dict.fromkeys(("stride", "temporal_stride", "frame_rate", "normalisation"))
    normalisation, channels = config.normalisation, config.latent_shape[0] * config.normalisation.patch_size**2
    mean, scale = (
        np.broadcast_to(values, (channels,)).tolist() for values in (normalisation.mean, normalisation.scale)
    )
    return {
        "stride": config.stride,
        "temporal_stride": config.temporal_stride,
        "frame_rate": config.frame_rate if config.is_video else None,
        "normalisation": {"mean": mean, "scale": scale, "patch_size": normalisation.patch_size},
    }


def _calibration(calibration: Calibration | None) -> dict[str, object] | None:
    """How percentiles are computed, without the quantiles."""
    if calibration is None:
        return None
    return {
        name: getattr(calibration, name) for name in ("score", "draws", "samples", "seed", "images", "highest_loss")
    }


def _model_info(loaded: LoadedModel) -> dict[str, str]:
    metadata, config = loaded.checkpoint.metadata, loaded.backend.config
    return {
        "name": metadata.name,
        "architecture": config.architecture,
        "image_shape": "×".join(map(str, config.image_shape)),
        "latent_dim": "×".join(map(str, config.latent_shape)),
        "sha256": metadata.sha256,
        "version": VERSION,
    }
