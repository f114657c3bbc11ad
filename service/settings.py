"""Every setting of the service: VAE_… in the environment, or the same as a flag of vae-serve."""

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

PREFIX = "VAE_"
BUNDLED = Path(str(files("weights"))) / "mnist.safetensors"
ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^\s/?#@*]+")
"""What browsers send as `Origin`: scheme, host and port, without a path; or any of them."""
Runtime = Literal["auto", "onnx", "torch"]


class SettingsError(Exception):
    """A setting that cannot be; the message is what to tell the operator."""


class Settings(BaseSettings):
    """Frozen; a flag goes before the environment, the environment before the default."""

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
        description="checkpoint to serve: .safetensors, the article's .pt, or a folder of diffusers' AutoencoderKL",
    )
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 lets the system choose")
    workers: int = Field(1, ge=1, le=256, description="processes that serve")
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (),
        description="keys that may call, of printable ASCII characters, separated by commas; without any the service "
        "is open",
    )
    api_keys_file: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (), description="file with more such keys, one a line; lines that begin with # are none"
    )
    body_limit: int = Field(32 * 2**20, ge=1, description="largest body of a request, bytes")
    image_pixel_limit: int = Field(50_000_000, ge=1, description="largest picture taken or given, pixels")
    batch_limit: int = Field(10_000, ge=1, description="most images or latents in one request")
    micro_batch_limit: int = Field(64, ge=1, description="most images or latents computed together")
    memory_limit: int = Field(
        2**30, validate_default=True, description="most memory that the requests of one worker take, bytes"
    )
    queue_limit: int = Field(1024, ge=1, description="most requests in flight in one worker")
    request_deadline: float = Field(30, gt=0, description="time in which a request is answered, seconds")
    client_timeout: float = Field(
        10, gt=0, description="time a caller has for a request's head, for more of its body, to take an answer, seconds"
    )
    keep_alive: float = Field(75, gt=0, description="time that a connection may be idle, seconds")
    drain_time: float = Field(30, gt=0, description="time that accepted requests have at a stop, seconds")
    torch_threads: int = Field(1, ge=1, le=1024, description="threads of one worker's computations")
    compute: Literal["auto", "inline", "thread"] = Field(
        "auto",
        description="where batches are computed: on the event loop, in a thread, or as their time says",
    )
    runtime: Runtime = Field(
        "auto", description="what computes the network: ONNX Runtime, torch, or the first where it can"
    )
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d+)?|mps)$", description="cpu, cuda, cuda:N or mps")
    metrics: Literal["open", "key", "off"] = Field("open", description="/metrics: open to all, for keys alone, or off")
    tracing: bool = Field(False, description="spans by OpenTelemetry, sent as its own OTEL_ variables say")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe log line")
    log_format: Literal["text", "json"] = Field("text", description="log lines for people or for machines")
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="origins of other sites whose pages may call, separated by commas"
    )

    @field_validator("api_keys", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        parts = tuple(part for piece in value.split(",") if (part := piece.strip()))
        if value and not parts:
            raise ValueError("There is nothing between the commas; leave it unset where nothing is meant")
        return parts

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if not ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is no origin; one like https://example.org or http://localhost:3000, or *"
                )
        return value

    @field_validator("api_keys", "api_keys_file")
    @classmethod
    def _check_keys(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for number, key in enumerate(value, 1):
            text = key.get_secret_value()
            if not (text.isascii() and text.isprintable()):
                raise ValueError(
                    f"Key {number} has other characters than printable ASCII, so that callers cannot send it"
                )
        return value

    @field_validator("memory_limit")
    @classmethod
    def _check_memory(cls, value: int, info: ValidationInfo) -> int:
        least = RECEIVING_SHARE * info.data.get("body_limit", 0)
        if value < least:
            raise ValueError(f"It has to be at least {RECEIVING_SHARE} times body_limit, here {least}")
        return value

    @field_validator("api_keys_file", mode="before")
    @classmethod
    def _read(cls, value: object) -> object:
        return read_keys(Path(value)) if isinstance(value, str | Path) else value

    @field_validator("checkpoint", "host", "api_keys_file", mode="before")
    @classmethod
    def _refuse_empty(cls, value: object) -> object:
        if value == "":
            raise ValueError("It is empty; leave it unset where the default is meant")
        return value

    @property
    def address(self) -> str:
        """HOST:PORT as in a URL, where an IPv6 address stands in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def keys(self) -> tuple[str, ...]:
        """All that may call, each once: they have equal shares."""
        return tuple({key.get_secret_value(): None for key in (*self.api_keys, *self.api_keys_file)})

    @property
    def limits(self) -> Limits:
        """What is refused with 413."""
        return Limits(self.body_limit, self.image_pixel_limit, self.batch_limit)


def read_settings(arguments: Sequence[str]) -> Settings:
    """Settings from flags and environment; raises SettingsError, and SystemExit for --help or an unknown flag."""
    known = {name.upper() for name in Settings.model_fields}
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in known:
            near = difflib.get_close_matches(name.removeprefix(PREFIX), known, 1)
            guess = f"; is {PREFIX}{near[0]} meant?" if near else "."
            raise SettingsError(f"{name} is no setting of this service{guess}")
    try:
        return CliApp.run(Settings, cli_args=list(arguments))
    except ValidationError as error:
        complaints = (
            f"{'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}"
            for e in error.errors(include_url=False)
        )
        raise SettingsError("; ".join(complaints) + ". See vae-serve --help.") from error
