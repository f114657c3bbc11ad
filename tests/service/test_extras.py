"""The service starts without the extras, and says which one is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXTRAS = (
    *("av", "diffusers", "httpx", "matplotlib", "onnxscript", "opentelemetry.exporter", "opentelemetry.sdk", "plotly"),
    *("pyarrow", "ray", "tensorboard", "torch", "torchvision", "tqdm", "training", "vae_client"),
)
HIDE = f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.modules.update(dict.fromkeys({EXTRAS!r}))"
CREATE = """
from service.app import create_app
from service.settings import read_settings
from service.inference.loading import StartError
try:
    create_app(read_settings(sys.argv[1:]), lambda: None)
except StartError as error:
    print(error)
"""


def create_app(*arguments: str) -> str:
    """What creating the application prints where no extra is installed."""
    command = [sys.executable, "-c", f"{HIDE}\n{CREATE}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def test_no_extra_is_needed() -> None:
    assert create_app() == ""


def test_tracing_names_its_extra() -> None:
    assert create_app("--tracing", "true") == "For tracing, install OpenTelemetry: pip install 'vae-service[otel]'."
