"""diffusers' own client, called in every way; as a program, the one that PYTHONPATH has, with a URL and a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.remote_utils import remote_decode, remote_encode
from PIL import Image

Z = torch.randn(1, 4, 12, 16, generator=torch.Generator().manual_seed(1))
PICTURE = Image.fromarray(np.random.default_rng(2).integers(0, 256, (24, 32, 3), np.uint8))
FACTORS = {"scaling_factor": 0.5, "shift_factor": -0.125}


def packed(z: torch.Tensor) -> torch.Tensor:
    """As Flux's pipeline packs latents."""
    count, channels, height, width = z.shape
    patches = z.view(count, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(count, height * width // 4, 4 * channels)


def call_all(url: str) -> dict[str, Any]:
    """Return what each call gives, as arrays."""
    decode, encode, processor = f"{url}/remote/decode", f"{url}/remote/encode", VaeImageProcessor()
    x = processor.preprocess(PICTURE).contiguous()  # of a copy diffusers 0.42 would send memory that is freed
    raw = {"output_type": "pt", "return_type": "pt"}
    given = {
        "raw": remote_decode(decode, Z, **raw, **FACTORS),
        "raw, float16": remote_decode(decode, Z.half(), **raw, **FACTORS),
        "raw, bfloat16": remote_decode(decode, Z.bfloat16(), **raw, **FACTORS),
        "raw, the model's factors": remote_decode(decode, Z, **raw),
        "raw, not scaled": remote_decode(decode, Z, do_scaling=False, **raw),
        "raw, packed": remote_decode(decode, packed(Z), height=24, width=32, **raw, **FACTORS),
        "raw, base64": remote_decode(
            decode, Z, input_tensor_type="base64", output_tensor_type="base64", **raw, **FACTORS
        ),
        "unit": remote_decode(decode, Z, processor=processor, return_type="pt", **FACTORS),
        "picture, unit": remote_decode(decode, Z, processor=processor, **FACTORS)[0],
        "picture, raw": remote_decode(decode, Z, processor=processor, output_type="pt", **FACTORS),
        "picture, uint8": remote_decode(decode, Z, output_type="pt", partial_postprocess=True, **FACTORS),
        "picture, png": remote_decode(decode, Z, image_format="png", **FACTORS),
        "jpg": remote_decode(decode, Z, **FACTORS),
        "latents": remote_encode(encode, x, **FACTORS),
        "latents, picture": remote_encode(encode, PICTURE, **FACTORS),
        "latents, not scaled": remote_encode(encode, x),
    }
    arrays = {name: np.asarray(value.float() if torch.is_tensor(value) else value) for name, value in given.items()}
    try:
        remote_decode(decode, Z[:, :3], do_scaling=False)
    except RuntimeError as error:
        arrays["error"] = np.array(error.args[0]["detail"])
    return {**arrays, "version": np.array(diffusers.__version__)}


if __name__ == "__main__":
    np.savez(Path(sys.argv[2]), **call_all(sys.argv[1]))
