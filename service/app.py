"""create_app: assembles the service; nothing else does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

from PIL import Image
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Mount, Route, Router

from service import errors
from service.api import models, open_inference, open_inference_repository, paths, probes, routes, small_operations
from service.api.admission import Admission
from service.api.application import Application, path_below_root
from service.api.context import Models
from service.api.creation import Creator
from service.api.documentation import Documentation
from service.api.etags import CacheableOperation
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
from service.inference.loading import StartError
from service.keys import Keyring
from service.malloc import map_large_blocks
from service.memory_budget import MemoryBudget
from service.models.follower import follow
from service.models.opening import Open, Opened, open_models
from service.models.registry import Registry
from service.settings import Settings, read_settings
from service.telemetry.access_log import AccessLog
from service.telemetry.prometheus import NO_MODEL, Metrics
from service.telemetry.shared_memory import SharedSnapshots
from service.telemetry.tracing import Tracer
from service.version import VERSION

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
    "/models": ("GET", models.models),
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
    "/v2/repository/index": ("POST", open_inference_repository.repository_index),
    **{f"/v2/models/{{name}}{version}": ("GET", open_inference.model) for version in VERSIONS},
    **{f"/v2/models/{{name}}{version}/ready": ("GET", open_inference.model_ready) for version in VERSIONS},
    **{f"/v2/models/{{name}}{version}/infer": ("POST", open_inference.infer) for version in VERSIONS},
}
OF_NO_MODEL = ("/models", "/v2", "/v2/repository/index")
"""Operations that no model answers."""
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
    settings: Settings | None = None, open_: Open | None = None, metrics: Metrics | None = None
) -> Application:
    """Create the service as an ASGI application for any server; its lifespan loads the models.

    Without `settings` they are read from the environment, so that this is a factory for servers other than vae-serve:
    `uvicorn --factory service.app:create_app`. Address, workers and time limits of connections are then the server's.

    `open_` replaces `open_models`. `metrics` is given where several workers share counters.

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
        opened = open_() if open_ else open_models(settings)
        create = Creator(settings, metrics.by_model, tracer.trace_batch if tracer else None)
        served: Models = Registry(
            opened.commit, opened.catalogue, opened.loaded, create, memory_limit=settings.models_memory
        )
        fast_path = FastPath(partial(make_plan, application), opened.commit.generation)
        offloader = app.state.offloader = Offloader()
        app.state.models = served
        served.on_change = partial(_adapt, served, fast_path, admission, metrics)
        served.on_change()
        stop_following = _follow(opened, served)
        _describe(metrics, served, memory, settings.queue_limit)
        metrics.keep_publishing()
        _log_models(served, address)
        logger.info("Settings: %s", settings.model_dump_json())
        if not (keyring or (address and settings.host in LOOPBACK)):
            logger.warning("No VAE_API_KEYS are set: anyone who can reach the service%s may call it.", address)
        admission.start()
        is_fast = settings.compute == "auto" and not (tracer or settings.cors_origins)
        yield {
            "admission": admission,
            "memory": memory,
            "fast_path": fast_path if is_fast else None,
            "inbox": Inbox(asyncio.get_running_loop(), settings.micro_batch_limit),
            "timeouts": Timeouts(settings.client_timeout, settings.keep_alive),
            "record_refusal": application.record_refusal,
        }
        stop_following()
        served.close()
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
    app.state.metrics, app.state.metrics_need_key = metrics, settings.metrics == "key"
    app.state.access_control = AccessControl(keyring, admission, metrics.by_model, settings.limits)
    application = Application(
        app, cors=_cors(app, settings), access_log=access_log, counters=metrics.by_model, tracer=tracer
    )
    return application


def _routes(settings: Settings) -> list[BaseRoute]:
    handlers = {"/livez": probes.livez, "/readyz": probes.readyz}
    handlers |= {"/v2/health/live": open_inference.live, "/v2/health/ready": open_inference.ready}
    if settings.metrics != "off":
        handlers["/metrics"] = probes.metrics
    return [
        *(_operation(path, method, handler) for path, (method, handler) in OPERATIONS.items()),
        *(CacheableOperation(path, handler, CHECKS[path]) for path, handler in QUERIES.items()),
        *(
            open_inference.InferenceOperation(path, handler, [method], of_model=path not in OF_NO_MODEL)
            for path, (method, handler) in INFERENCE.items()
        ),
        *(Probe(path, handler) for path, handler in handlers.items()),
    ]


def _operation(path: str, method: str, handler: Callable[..., Awaitable[Response]]) -> Operation:
    if method == "GET" and path in CHECKS:
        return CacheableOperation(path, handler, CHECKS[path])
    kind = EventOperation if path in EVENTS else Operation
    return kind(path, handler, [method], SMALL.get(path), of_model=path not in OF_NO_MODEL)


def _adapt(served: Models, fast_path: FastPath, admission: Admission, metrics: Metrics) -> None:
    """Forget what is known of models that are served no longer."""
    fast_path.forget()
    admission.are_several_models = len(served) > 1
    metrics.by_model.keep(served.catalogue.by_key.keys())
    metrics.by_model.update({model.key: model.context.counters for model in served if model.context})


def _follow(opened: Opened, served: Models) -> Callable[[], None]:
    """Begin to change the models as the rollout says, if there is one; return what stops it."""
    changes, stop = opened.changes, _do_nothing
    if opened.rollout:
        from service.models.watch import watch  # noqa: PLC0415 - most services have none, or a supervisor has it

        changes, stop = watch(opened.rollout)
    if changes:
        follow(changes, served)
    return stop


def _do_nothing() -> None:
    """End nothing: no thread of this process watches the models."""


def _log_models(served: Models, address: str) -> None:
    for model in served:
        info = model.context.info if model.context else {"load": "at its first use"}
        labels = ", ".join(f"{label} {value}" for label, value in info.items())
        logger.info("Serving %s%s: %s.", model.entry.path, address, labels)


def _describe(metrics: Metrics, served: Models, memory: MemoryBudget, places: int) -> None:
    """Let the metrics tell the state of the models and of the requests."""
    metrics.info = lambda: [model.context.info for model in served if model.context]
    metrics.failed = lambda: models.failed(served)
    metrics.gauges = {
        "vae_queue_rows": (
            "Images and latents that wait to be computed",
            lambda: {model.key: model.context.engine.waiting for model in served if model.context},
        ),
        "vae_requests_in_flight": (
            "Requests let in and not answered yet",
            lambda: {model.key: model.places for model in (*served, served.no_model)},
        ),
        "vae_places": ("Requests that may be in flight", lambda: {NO_MODEL: places}),
        "vae_memory_bytes": (
            "Memory that requests take, and answers that wait to be read",
            lambda: {NO_MODEL: memory.used},
        ),
        "vae_memory_limit_bytes": ("Memory that requests may take", lambda: {NO_MODEL: memory.limit}),
    }


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
