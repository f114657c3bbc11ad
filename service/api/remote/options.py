"""The parameters of a request, in the query or in a JSON body."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.api.schemas import LATENT_BOUND
from vae.config import VAEConfig
from vae.diffusion.config import DiffusionConfig
from vae.diffusion.normalisation import Normalisation

Config = VAEConfig | DiffusionConfig
Size = Annotated[int, Field(ge=1, le=2**31)]
Factor = Annotated[float, Field(ge=1 / LATENT_BOUND, le=LATENT_BOUND, allow_inf_nan=False)]
Shift = Annotated[float, Field(ge=-LATENT_BOUND, le=LATENT_BOUND, allow_inf_nan=False)]
TensorType = Literal["binary", "base64"]


class TensorOptions(BaseModel):
    """Query of /remote/encode."""

    model_config = ConfigDict(frozen=True)

    shape: tuple[Size, ...] = Field(
        (), max_length=5, description="Shape of the tensor in the body, one value per parameter."
    )
    dtype: Literal["float16", "bfloat16", "float32"] = Field(
        "float32", description="Data type of the tensors in the request and in the response."
    )
    do_scaling: bool = Field(
        False,
        description="Normalise latents as the model's configuration says. True where the body has `parameters`.",
    )
    scaling_factor: Factor | None = Field(None, description="Scale latents by this factor.")
    shift_factor: Shift | None = Field(None, description="Shift latents by this term.")
    input_tensor_type: TensorType = Field(
        "binary", description="How the tensor is written in a body without a content type."
    )
    output_tensor_type: TensorType = Field(
        "binary", description="How a tensor is written in the response, where `Accept` allows both."
    )

    def normalisation(self, config: Config) -> Normalisation:
        """Return the normalisation of latents that the request asks for."""
        if self.do_scaling and self.scaling_factor is None and self.shift_factor is None:
            return config.normalisation if isinstance(config, DiffusionConfig) else Normalisation()
        factor, shift = (config.scaling_factor, config.shift_factor) if self.do_scaling else (None, None)
        factor = factor if self.scaling_factor is None else self.scaling_factor
        shift = shift if self.shift_factor is None else self.shift_factor
        return Normalisation(shift or 0.0, 1.0 if factor is None else factor)


class RemoteDecodeOptions(TensorOptions):
    """Query of /remote/decode."""

    output_type: Literal["pil", "pt", "mp4"] = Field(
        "pil", description="A picture (pil), a tensor (pt), or the file of a video (mp4)."
    )
    image_format: Literal["jpg", "png"] | None = Field(
        None, description="File format of a picture; by default the one that `Accept` asks for, or else jpg."
    )
    partial_postprocess: bool = Field(
        False,
        description="Return tensors as uint8 (N, H, W, 3) instead of (N, C, H, W) in about [-1, 1]; the frames of a "
        "video as (T, H, W, 3).",
    )
    height: Size | None = Field(
        None, description="Height of the image in pixels, for packed latents, (N, h·w/4, 4·C') or (h·w/4, 4·C')."
    )
    width: Size | None = Field(None, description="Width of the image in pixels, for packed latents.")
    fps: float | None = Field(
        None, ge=1, le=240, allow_inf_nan=False, description="Frames per second of an mp4; by default the model's."
    )
