"""The data types that an autoencoder of a diffusion model can compute in. Imports neither torch nor NumPy."""

from __future__ import annotations

from typing import Literal

Dtype = Literal["float32", "bfloat16", "float16"]
