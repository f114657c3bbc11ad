"""The requests of each client for image models, as its code builds them; {shape} and {dtype} are a tensor's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Layout = Literal["batch", "first", "packed", "first packed"]
"""Of latents: (N, C', h, w), (C', h, w), (N, h·w/4, 4·C'), (h·w/4, 4·C')."""
Answer = Literal["jpg", "png", "raw", "uint8", "unit"]
"""A picture; a tensor (N, C, H, W) in about [-1, 1], (N, H, W, 3) uint8, or (N, C, H, W) in [0, 1]."""


@dataclass(frozen=True)
class Sent:
    """A request to /remote/decode."""

    query: str
    accept: str
    answer: Answer
    layout: Layout = "batch"
    content_type: str = "tensor/binary"
    factor: float = 1
    """By which the service has to divide the latents; 0: the model's own factor and shift."""
    shift: float = 0


FACTORS = "scaling_factor=0.3611&shift_factor=0.1159"
TENSOR, BASE64, JSON = "tensor/binary", "tensor/base64", "application/json"

DIFFUSERS = "image_format={image}&output_type={output}&partial_postprocess={partial}&{{shape}}&dtype={{dtype}}"
JPG = DIFFUSERS.format(image="jpg", output="pil", partial=False)
PNG = DIFFUSERS.format(image="png", output="pil", partial=False)
RAW = DIFFUSERS.format(image="jpg", output="pt", partial=False)
UINT8 = DIFFUSERS.format(image="jpg", output="pt", partial=True)

SDNEXT = "input_tensor_type=binary&{shape}&dtype={dtype}"
SDNEXT_ANSWERS: dict[Answer, tuple[str, str]] = {
    "png": ("&image_format=png&output_type=pil", "image/png"),
    "jpg": ("&image_format=jpg&output_type=pil", "image/jpeg"),
    "raw": ("&partial_postprocess=False&output_type=pt&output_tensor_type=binary", TENSOR),
}
COMFY = "do_scaling=False&output_type={output}&partial_postprocess=False&{{shape}}&dtype={{dtype}}"
COMFY_RAW, COMFY_PIL = COMFY.format(output="pt"), COMFY.format(output="pil")

SD: dict[str, Sent] = {
    "diffusers, jpg": Sent(f"{JPG}&scaling_factor=0.18215", "image/jpeg", "jpg", factor=0.18215),
    "diffusers, png": Sent(f"{PNG}&scaling_factor=0.18215", "image/png", "png", factor=0.18215),
    "diffusers, raw": Sent(f"{RAW}&scaling_factor=0.18215", TENSOR, "raw", factor=0.18215),
    "diffusers, uint8": Sent(f"{UINT8}&scaling_factor=0.18215", TENSOR, "uint8", factor=0.18215),
    "diffusers, with a processor": Sent(f"{JPG}&scaling_factor=0.18215", TENSOR, "unit", factor=0.18215),
    "diffusers, do_scaling": Sent(f"{RAW}&do_scaling=True", TENSOR, "raw", factor=0),
    "diffusers, do_scaling=False": Sent(RAW, TENSOR, "raw"),
    **{
        f"SD.Next, {answer}": Sent(f"{SDNEXT}{query}&scaling_factor=0.18215", accept, answer, factor=0.18215)
        for answer, (query, accept) in SDNEXT_ANSWERS.items()
    },
    "SD.Next of March 2025": Sent(f"do_scaling=True&{SDNEXT}{SDNEXT_ANSWERS['png'][0]}", "image/png", "png", factor=0),
    "SD.Next of February 2025": Sent("", "image/jpeg", "jpg", content_type=JSON, factor=0),
    "ComfyUI": Sent(f"{COMFY_RAW}&height=48&width=64", TENSOR, "raw"),
    "ComfyUI, base64": Sent(COMFY_RAW, BASE64, "raw", content_type=BASE64),
    "ComfyUI, base64 in": Sent(COMFY_RAW, TENSOR, "raw", content_type=BASE64),
    "ComfyUI, base64 out": Sent(COMFY_RAW, BASE64, "raw"),
    "ComfyUI, base64, uint8": Sent(
        COMFY_RAW.replace("process=False", "process=True"), BASE64, "uint8", content_type=BASE64
    ),
    "ComfyUI, png": Sent(COMFY_PIL, "image/png", "png", content_type=BASE64),
    "ComfyUI, jpg": Sent(COMFY_PIL, "image/jpeg", "jpg", content_type=BASE64),
    "ComfyUI, base64 with a processor": Sent(COMFY_PIL, BASE64, "unit", content_type=BASE64),
    "ComfyUI, do_scaling": Sent(COMFY_RAW.replace("scaling=False", "scaling=True"), BASE64, "raw", factor=0),
}
"""For Stable Diffusion's VAE and those like it."""

SIDES = "&height=24&width=32"
DIFFUSERS_ANSWERS: list[tuple[str, str, Answer]] = [
    (JPG, "image/jpeg", "jpg"),
    (PNG, "image/png", "png"),
    (RAW, TENSOR, "raw"),
    (UINT8, TENSOR, "uint8"),
]
DIFFUSERS_LAYOUTS: list[tuple[Layout, str]] = [("packed", SIDES), ("batch", "")]
SDNEXT_LAYOUTS: list[tuple[Layout, str]] = [
    ("first", ""),
    ("first", "&width=32&height=24"),
    ("packed", "&width=32&height=24"),
    ("first packed", "&width=32&height=24"),
    ("batch", "&width=32&height=24"),
]
FLUX: dict[str, Sent] = {
    **{
        f"diffusers, {answer}, {layout}": Sent(
            f"{query}&{FACTORS}{sides}", accept, answer, layout, factor=0.3611, shift=0.1159
        )
        for query, accept, answer in DIFFUSERS_ANSWERS
        for layout, sides in DIFFUSERS_LAYOUTS
    },
    "diffusers, do_scaling": Sent(f"{RAW}&do_scaling=True{SIDES}", TENSOR, "raw", "packed", factor=0),
    **{
        f"SD.Next, {answer}, {layout}, {'sides' if sides else 'no sides'}": Sent(
            f"{SDNEXT}{query}{sides}&{FACTORS}", accept, answer, layout, factor=0.3611, shift=0.1159
        )
        for answer, (query, accept) in SDNEXT_ANSWERS.items()
        for layout, sides in SDNEXT_LAYOUTS
    },
    "the first article": Sent("", "image/jpeg", "jpg", "packed", content_type=JSON, factor=0),
    "ComfyUI": Sent(f"{COMFY_RAW}&height=96&width=128", TENSOR, "raw"),
}
"""For Flux's VAE: its pipeline packs latents, those of HiDream, Z-Image and Lumina 2 do not."""
