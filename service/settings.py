"""The settings of the service: VAE_… in the environment, or flags of vae-serve."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, CliApp, NoDecode, SettingsConfigDict

from service.keys import read_keys
from service.limits import Limits
from service.memory_budget import RECEIVING_SHARE
from vae.diffusion.dtypes import Dtype

PREFIX = "VAE_"
CLIENT_VARIABLE = "VAE_BASE_URL"
"""Variable of vae-client that is no error. Its VAE_API_KEY is one: it may be a misspelt VAE_API_KEYS."""
BUNDLED = Path(str(files("weights"))) / "mnist.safetensors"
ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^\s/?#@*]+")
"""What browsers send as `Origin`: scheme, host and port, without a path; * allows any."""
Runtime = Literal["auto", "onnx", "torch"]


class SettingsError(Exception):
    """A wrong setting; the message says how to correct it."""


class Settings(BaseSettings):
    """The settings; a flag overrides the environment, which overrides the default. Frozen."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        extra="forbid",
        frozen=True,
        cli_prog_name="vae-serve",
        cli_kebab_case="all",
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )

    checkpoint: Path = Field(
        BUNDLED,
        description="checkpoint to serve: .safetensors, the article's .pt, or a folder of diffusers",
    )
    models: Path | None = Field(
        None, description="folder of models to serve instead of one checkpoint; it is watched for changes"
    )
    models_memory: int | None = Field(
        None, ge=1, description="most bytes of models in the memory of one worker; by default any number"
    )
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 lets the system choose")
    workers: int = Field(1, ge=1, le=256, description="processes that serve")
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (),
        description="API keys, of printable ASCII characters, separated by commas; by default anyone may call",
    )
    api_keys_file: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (), description="file with more API keys, one per line; lines that begin with # are comments"
    )
    body_limit: int = Field(32 * 2**20, ge=1, description="largest body of a request, bytes")
    image_pixel_limit: int = Field(50_000_000, ge=1, description="largest picture in a request or a response, pixels")
    batch_limit: int = Field(10_000, ge=1, description="most images or latents in one request")
    micro_batch_limit: int = Field(64, ge=1, description="most images or latents in one batch of computations")
    memory_limit: int = Field(
        2**30, validate_default=True, description="most memory for the requests of one worker, bytes"
    )
    compute_memory: int | None = Field(
        None,
        ge=1,
        description="most memory to compute an image of a model of diffusers, bytes: larger images are computed in "
        "tiles; by default those of more than 1024x1024 pixels, and what does not fit into half of the free memory",
    )
    queue_limit: int = Field(1024, ge=1, description="most requests in flight in one worker")
    request_deadline: float = Field(30, gt=0, description="longest time until a response, seconds")
    client_timeout: float = Field(
        10,
        gt=0,
        description="longest wait for a client to send a request's header or more of its body, or to read a response, "
        "seconds",
    )
    keep_alive: float = Field(75, gt=0, description="longest idle time of a connection, seconds")
    drain_time: float = Field(30, gt=0, description="longest time to finish requests at a stop, seconds")
    torch_threads: int = Field(1, ge=1, le=1024, description="threads for the computations of one worker")
    compute: Literal["auto", "inline", "thread"] = Field(
        "auto",
        description="where batches are computed: on the event loop, in a thread, or by their measured time",
    )
    runtime: Runtime = Field(
        "auto", description="what computes the network: ONNX Runtime, torch, or ONNX Runtime where it can"
    )
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d+)?|mps)$", description="cpu, cuda, cuda:N or mps")
    dtype: Dtype = Field(
        "float32", description="what a folder of diffusers computes in; float32 for all other checkpoints"
    )
    metrics: Literal["open", "key", "off"] = Field(
        "open", description="/metrics: open to all, for API keys only, or off"
    )
    tracing: bool = Field(False, description="send OpenTelemetry spans, to where its own OTEL_ variables say")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severe level that is logged"
    )
    log_format: Literal["text", "json"] = Field("text", description="format of log lines")
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="origins of other sites whose pages may use the service, separated by commas"
    )

    @field_validator("api_keys", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        parts = tuple(part for piece in value.split(",") if (part := piece.strip()))
        if value and not parts:
            raise ValueError("It has only commas and blanks; leave it unset for none")
        return parts

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if not ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is not an origin such as https://example.org or http://localhost:3000, or *"
                )
        return value

    @field_validator("api_keys", "api_keys_file")
    @classmethod
    def _check_keys(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for number, key in enumerate(value, 1):
            text = key.get_secret_value()
            if not (text.isascii() and text.isprintable()):
                raise ValueError(f"Key {number} has characters that are not printable ASCII, which clients cannot send")
        return value

    @field_validator("memory_limit")
    @classmethod
    def _check_memory(cls, value: int, info: ValidationInfo) -> int:
        least = RECEIVING_SHARE * info.data.get("body_limit", 0)
        if value < least:
            raise ValueError(f"It must be at least {RECEIVING_SHARE} times body_limit, here {least}")
        return value

    @field_validator("api_keys_file", mode="before")
    @classmethod
    def _read(cls, value: object) -> object:
        return read_keys(Path(value)) if isinstance(value, str | Path) else value

    @field_validator("models")
    @classmethod
    def _check_models(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value and info.data.get("checkpoint") != BUNDLED:
            raise ValueError("It takes the place of checkpoint; set one of the two")
        return value

    @field_validator("checkpoint", "models", "host", "api_keys_file", mode="before")
    @classmethod
    def _refuse_empty(cls, value: object) -> object:
        if value == "":
            raise ValueError("It is empty; leave it unset for the default")
        return value

    @property
    def address(self) -> str:
        """HOST:PORT as in a URL, with an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def keys(self) -> tuple[str, ...]:
        """All API keys, without duplicates."""
        return tuple({key.get_secret_value(): None for key in (*self.api_keys, *self.api_keys_file)})

    @property
    def limits(self) -> Limits:
        """The size limits."""
        return Limits(self.body_limit, self.image_pixel_limit, self.batch_limit)


def read_settings(arguments: Sequence[str]) -> Settings:
    """Read the settings from flags and the environment.

    Raises SettingsError for a wrong value or an unknown VAE_ variable, and SystemExit for --help or an unknown flag.
    """
    known = {name.upper() for name in Settings.model_fields}
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in known and name != CLIENT_VARIABLE:
            near = difflib.get_close_matches(name.removeprefix(PREFIX), known, 1)
            guess = f"; did you mean {PREFIX}{near[0]}?" if near else "."
            raise SettingsError(f"{name} is not a setting of this service{guess}")
    try:
        return CliApp.run(Settings, cli_args=list(arguments))
    except ValidationError as error:
        problems = (
            f"{'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}"
            for e in error.errors(include_url=False)
        )
        raise SettingsError("; ".join(problems) + ". See vae-serve --help.") from error
