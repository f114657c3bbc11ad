"""The parameters of a request, in the query or in a JSON body."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.api.schemas import LATENT_BOUND
from vae.config import AutoencoderKLConfig, VAEConfig

Config = VAEConfig | AutoencoderKLConfig
Size = Annotated[int, Field(ge=1, le=2**31)]
Factor = Annotated[float, Field(ge=1 / LATENT_BOUND, le=LATENT_BOUND, allow_inf_nan=False)]
Shift = Annotated[float, Field(ge=-LATENT_BOUND, le=LATENT_BOUND, allow_inf_nan=False)]
TensorType = Literal["binary", "base64"]


class TensorOptions(BaseModel):
    """Query of /remote/encode."""

    model_config = ConfigDict(frozen=True)

    shape: tuple[Size, ...] = Field(
        (), max_length=4, description="Shape of the tensor in the body, one value per parameter."
    )
    dtype: Literal["float16", "bfloat16", "float32"] = Field(
        "float32", description="Data type of the tensors in the request and in the response."
    )
    do_scaling: bool = Field(
        False,
        description="Scale latents by the factors of the model's configuration. True where the body has `parameters`.",
    )
    scaling_factor: Factor | None = Field(None, description="Scale latents by this factor.")
    shift_factor: Shift | None = Field(None, description="Shift latents by this term.")
    input_tensor_type: TensorType = Field(
        "binary", description="How the tensor is written in a body without a content type."
    )
    output_tensor_type: TensorType = Field(
        "binary", description="How a tensor is written in the response, where `Accept` allows both."
    )

    def scaling(self, config: Config) -> tuple[float, float]:
        """Return the scaling factor and the shift factor."""
        factor, shift = (config.scaling_factor, config.shift_factor) if self.do_scaling else (1.0, 0.0)
        factor = factor if self.scaling_factor is None else self.scaling_factor
        shift = shift if self.shift_factor is None else self.shift_factor
        return factor, shift


class RemoteDecodeOptions(TensorOptions):
    """Query of /remote/decode."""

    output_type: Literal["pil", "pt"] = Field("pil", description="A picture (pil), or a tensor (pt).")
    image_format: Literal["jpg", "png"] | None = Field(
        None, description="File format of a picture; by default the one that `Accept` asks for, or else jpg."
    )
    partial_postprocess: bool = Field(
        False, description="Return tensors as uint8 (N, H, W, 3) instead of (N, C, H, W) in about [-1, 1]."
    )
    height: Size | None = Field(
        None, description="Height of the image in pixels, for packed latents, (N, h·w/4, 4·C') or (h·w/4, 4·C')."
    )
    width: Size | None = Field(None, description="Width of the image in pixels, for packed latents.")
