"""create_app(settings): the only place that assembles."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import orjson
import torch
from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

from service import errors, routes
from service.access import AccessLog
from service.admission import Admission
from service.answers import refuse
from service.documentation import DESCRIPTION, describe, openapi
from service.engine import Engine, lay_out
from service.front import Front
from service.keys import Keyring
from service.operation import Gate, Operation
from service.settings import Settings
from vae.checkpoint import Checkpoint, CheckpointError, load
from vae.latents import LatentSet

logger = logging.getLogger("vae-service")

WEB = Path(__file__).parent / "web"
OPERATIONS: dict[str, tuple[str, Callable[..., Awaitable[Response]]]] = {
    "/encode": ("POST", routes.encode),
    "/decode": ("POST", routes.decode),
    "/reconstruct": ("POST", routes.reconstruct),
    "/sample": ("GET", routes.sample),
    "/interpolate": ("POST", routes.interpolate),
    "/traverse": ("POST", routes.traverse),
    "/latents": ("GET", routes.latents),
    "/model": ("GET", routes.model),
}


class StartError(Exception):
    """Why the service cannot start, in a sentence for the operator."""


def load_checkpoint(settings: Settings) -> Checkpoint:
    """The checkpoint on its device, laid out for the engine; raises StartError."""
    _check_device(settings.device)
    try:
        checkpoint = load(settings.checkpoint, settings.device)
    except CheckpointError as error:
        raise StartError(str(error)) from error
    lay_out(checkpoint.model)
    return checkpoint


def create_app(settings: Settings, checkpoint: Checkpoint | None = None) -> Front:
    """The service as an ASGI application; `checkpoint`, where it is not given, is loaded when its lifespan begins."""
    keyring = Keyring(key.get_secret_value() for key in settings.api_keys)
    admission = Admission(queue_limit=settings.queue_limit, keys=len(keyring), deadline=settings.request_deadline)
    access_log = AccessLog(settings.log_format) if settings.log_level in ("debug", "info") else None
    Image.MAX_IMAGE_PIXELS = None  # bodies.py refuses by its own limit, from the header

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, object]]:
        torch.set_num_threads(settings.torch_threads)
        served = checkpoint or load_checkpoint(settings)
        try:
            latents_json = _latents_json(settings.checkpoint, served.sha256)
        except CheckpointError as error:
            raise StartError(str(error)) from error
        engine = Engine(
            served.model,
            micro_batch_limit=settings.micro_batch_limit,
            device=settings.device,
            threaded={"inline": False, "thread": True, "auto": None}[settings.compute],
        )
        app.state.loaded = routes.Loaded(engine, settings.limits, _model_json(served), latents_json)
        logger.info("Serving %s, sha256 %s.", settings.checkpoint, served.sha256)
        if not keyring and settings.host not in ("127.0.0.1", "::1", "localhost"):
            logger.warning("No VAE_API_KEYS are set: whoever reaches %s:%d may call.", settings.host, settings.port)
        admission.status = "ok"
        yield {"admission": admission}
        engine.close()
        if access_log:
            access_log.flush()

    app = FastAPIOffline(
        redoc_url=None,
        title="VAE service",
        version=version("vae-service"),
        description=DESCRIPTION,
        lifespan=lifespan,
        swagger_ui_parameters={"tryItOutEnabled": True, "displayRequestDuration": True},
        telemetry={"tracing": False, "metrics": False, "logs": False},  # it would look for them at each request
    )
    app.state.gate = Gate(keyring, admission)
    for path, (method, handler) in OPERATIONS.items():
        app.router.add_api_route(
            path, handler, methods=[method], response_class=Response, route_class_override=Operation, **describe(path)
        )
    for path, probe in (("/livez", routes.livez), ("/readyz", routes.readyz)):
        app.add_api_route(path, probe, methods=["GET"], response_class=Response, **describe(path))
    app.openapi = lambda: openapi(app)  # type: ignore[method-assign]  # FastAPI's documented way to extend it
    for exception in (errors.ServiceError, HTTPException, Exception):
        app.add_exception_handler(exception, _answer_error)
    app.mount("/web", StaticFiles(directory=WEB))
    app.router.add_route("/", lambda _: FileResponse(WEB / "index.html"), include_in_schema=False)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "x-api-key"],
            expose_headers=["x-seed", "retry-after"],
        )
    return Front(app, shortcuts=not settings.cors_origins, access_log=access_log)


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:  # torch says it the one way or the other
        raise StartError(f"The device {device} cannot be used: {str(error).partition('. ')[0].strip('.')}.") from error


async def _answer_error(request: Request, error: Exception) -> Response:
    return refuse(_translate(request, error))


def _translate(request: Request, error: Exception) -> errors.ServiceError:
    """Whatever was raised → one of ours."""
    match error:
        case errors.ServiceError():
            return error
        case HTTPException(status_code=404):
            return errors.NotFound(f"There is no {request.url.path} here; /docs lists what there is.")
        case HTTPException(status_code=405):
            allow = (error.headers or {}).get("Allow", "GET, HEAD")
            return errors.MethodNotAllowed(
                f"{request.url.path} does not take {request.method}, but {allow}.", headers={"Allow": allow}
            )
        case _:
            return errors.InternalError()


def _model_json(checkpoint: Checkpoint) -> bytes:
    config = asdict(checkpoint.model.config)
    return orjson.dumps(
        {
            "name": checkpoint.name,
            **{name: config[name] for name in ("architecture", "image_shape", "latent_dim")},
            "parameters": sum(parameter.numel() for parameter in checkpoint.model.parameters()),
            **{name: getattr(checkpoint, name) for name in ("sha256", "format_version", "training", "figures")},
        }
    )


def _latents_json(checkpoint: Path, sha256: str) -> bytes | None:
    latents = LatentSet.load(checkpoint, sha256)
    if latents is None:
        return None
    document = {"mean": latents.mean.numpy(), "label": latents.label.numpy()}
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
