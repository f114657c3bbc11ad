"""What diffusers' pipelines do with latents, run from their source: importing them needs transformers."""

from __future__ import annotations

import ast
import math
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.torch_utils import get_module_execution_device, randn_tensor
from diffusers.video_processor import VideoProcessor

FOLDER = Path(diffusers.__file__).parent / "pipelines"
METHODS = (
    "_denormalize_latents",
    "_encode_vae_image",
    "_normalize_latents",
    "_pack_latents",
    "_patchify_latents",
    "_prepare_latent_ids",
    "_unpack_latents",
    "_unpack_latents_with_ids",
    "_unpatchify_latents",
    "decode_latents",
)


class Pipeline:
    """A pipeline of diffusers without its other models; `file` is its path below `pipelines`."""

    def __init__(self, file: str, network: Any) -> None:
        self._names: dict[str, Any] = {
            "XLA_AVAILABLE": False,
            "get_module_execution_device": get_module_execution_device,
            "math": math,
            "randn_tensor": randn_tensor,
            "torch": torch,
        }
        tree = ast.parse((FOLDER / file).read_text())
        (pipeline,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name.endswith("Pipeline"))
        methods = {node.name: node for node in pipeline.body if isinstance(node, ast.FunctionDef)}
        functions = [
            node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "retrieve_latents"
        ]
        pipeline.body = [*ast.parse("pass").body, *(methods[name] for name in METHODS if name in methods)]
        pipeline.bases = []
        self._execute([*ast.parse("from __future__ import annotations").body, *functions, pipeline])
        self.methods: Any = self._names[pipeline.name]()
        vars(self.methods).update(
            vae=network,
            image_processor=VaeImageProcessor(),
            video_processor=VideoProcessor(),
            watermark=None,
            run_safety_checker=lambda image, *_: (image, None),
            transformer_spatial_patch_size=1,
            transformer_temporal_patch_size=1,
        )
        self._call = methods["__call__"].body

    def decode(self, latents: torch.Tensor, **names: Any) -> torch.Tensor:
        """Run the statements of `__call__` from the first that decodes latents to the end, except the return.

        Args:
            latents: What the denoising loop leaves in the variable of that name.
            names: Other local variables and arguments of `__call__`.

        Returns:
            Images (N, C, H, W) or videos (N, T, C, H, W) in [0, 1].

        """
        texts = [ast.unparse(node) for node in self._call]
        start = next(i for i, text in enumerate(texts) if ".decode(" in text or "decode_latents(" in text)
        stop = next(i for i, text in enumerate(texts) if "maybe_free_model_hooks" in text)
        defaults = {"generator": None, "device": "cpu", "prompt_embeds": latents, "use_resolution_binning": False}
        self._names |= defaults | {"self": self.methods, "latents": latents, "output_type": "pt", **names}
        self._execute(self._call[start:stop])
        decoded: torch.Tensor = self._names["video"] if "video" in self._names else self._names["image"]
        return decoded

    def _execute(self, statements: list[ast.stmt]) -> None:
        exec(compile(ast.Module(statements, []), "pipeline", "exec"), self._names)
