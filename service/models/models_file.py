"""models.yaml in a folder of models: aliases, and options of each model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from vae.diffusion.dtypes import Dtype

NAME = "models.yaml"
MODEL_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
"""What a model or an alias may be called: it is part of a path."""
VERSION = r"\d{1,9}"
"""A version is a whole number, as in Triton and TensorFlow Serving: the highest one is the model's default."""


class ModelsFileError(Exception):
    """models.yaml cannot be used; the message says why, of `It`."""


class ModelOptions(BaseModel):
    """Options of a model; None stands for the service's own setting."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:\d+)?|mps)$")] | None = None
    dtype: Dtype | None = None
    """What a folder of diffusers computes in."""
    batch_limit: Annotated[int, Field(ge=1)] | None = None
    """Most images or latents in one request."""
    load: Literal["start", "first-use"] = "start"
    """When it is loaded; a model of first use is removed from the memory when others need it."""


class ModelsFile(BaseModel):
    """The content of models.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    aliases: dict[
        Annotated[str, Field(pattern=f"^{MODEL_NAME}$")], Annotated[str, Field(pattern=f"^{MODEL_NAME}(/{VERSION})?$")]
    ] = {}
    """Alias → `name`, which is the highest version, or `name/version`. `default` is the model of the plain routes."""
    models: dict[str, ModelOptions] = {}

    def options(self, name: str) -> ModelOptions:
        """Return the options of the model `name`."""
        return self.models.get(name, ModelOptions())

    @property
    def targets(self) -> dict[str, tuple[str, str | None]]:
        """Name and version, None for the highest, of each alias."""
        split = {alias: target.partition("/") for alias, target in self.aliases.items()}
        return {alias: (name, version or None) for alias, (name, _, version) in split.items()}


def read_models_file(path: Path) -> ModelsFile:
    """Read the file, which may be missing; raises ModelsFileError."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return ModelsFile()
    except OSError as error:
        raise ModelsFileError(f"It cannot be read: {error.strerror}.") from error
    import yaml  # noqa: PLC0415 - few folders have the file

    try:
        return ModelsFile.model_validate(yaml.safe_load(content) or {})
    except yaml.YAMLError as error:
        raise ModelsFileError(f"It is not YAML: {' '.join(str(error).split())}.") from error
    except ValidationError as error:
        raise ModelsFileError(f"It cannot be used: {'; '.join(map(_problem, error.errors()))}.") from error


def _problem(error: ErrorDetails) -> str:
    """Return what is wrong, and where."""
    *parents, last = place = [str(part) for part in error["loc"]] or ["the file"]
    if error["type"] != "extra_forbidden":
        return f"{'.'.join(place)}: {error['msg']}"
    keys = ", ".join((ModelOptions if parents else ModelsFile).model_fields)
    of = f" of {'.'.join(parents)}" if parents else ""
    return f"{last} is not a key{of}; the keys are {keys}"
