"""The servers that are compared, and how each is set up and started.

The frameworks have a venv each, from a file of pinned requirements. A venv sees the packages of this interpreter behind
its own, so that torch is installed once and is the same for all.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
VENVS = HERE.parent / ".venvs"
PORT = "{port}"
"""Stands in a command for the port to listen on."""


@dataclass(frozen=True)
class Contender:
    """`program` is one of its venv's bin; `environment` holds NAME=VALUE."""

    label: str
    program: str
    arguments: tuple[str, ...]
    venv: str = ""
    decodes: bool = True
    environment: tuple[str, ...] = ()

    def set_up(self) -> None:
        """Make its venv, if it has one of its own, unless this interpreter made it from the same pins."""
        if not self.venv:
            return
        folder, requirements = VENVS / self.venv, HERE / f"{self.venv}.txt"
        made_from = f"{sys.prefix}\n{requirements.read_text()}"
        note = folder / "made-from.txt"
        if note.exists() and note.read_text() == made_from:
            return
        print(f"Setting up {self.label} in {folder}.", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        paths = {"base": str(folder), "platbase": str(folder)}
        shared = Path(sysconfig.get_path("purelib", "venv", paths)) / "shared.pth"
        shared.write_text(sysconfig.get_path("purelib") + "\n")
        pip = [str(folder / "bin" / "pip"), "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*pip, "--requirement", str(requirements)], check=True)
        note.write_text(made_from)

    @property
    def command(self) -> tuple[str, ...]:
        """What starts it, with PORT in it."""
        folder = VENVS / self.venv / "bin" if self.venv else Path(sys.executable).parent
        return ("env", *self.environment, str(folder / self.program), *self.arguments)


def framework_versions() -> dict[str, str]:
    """As the requirements of the venvs pin them."""
    pins = [dict(pin.split("==") for pin in file.read_text().splitlines()) for file in HERE.glob("*.txt")]
    return {
        name: pinned[name]
        for name in ("granian", "mosec", "litserve", "bentoml", "ray")
        for pinned in pins
        if name in pinned
    }


def _uvicorn(label: str, module: str, decodes: bool) -> Contender:
    arguments = (f"benchmarks.contenders.{module}:app", "--port", PORT, "--no-access-log")
    return Contender(label, "uvicorn", arguments, decodes=decodes)


def _python(label: str, module: str, *arguments: str, venv: str = "", environment: tuple[str, ...] = ()) -> Contender:
    command = ("-m", f"benchmarks.contenders.{module}", PORT, *arguments)
    return Contender(label, "python", command, venv, decodes=bool(venv), environment=environment)


CONTENDERS = {
    "bare": _uvicorn("bare ASGI function", "bare", decodes=False),
    "bare-connection": _python("bare ASGI function, vae-serve's connections", "bare"),
    "noop": _uvicorn("FastAPI doing nothing", "noop", decodes=False),
    "plain": _uvicorn("FastAPI, plainly written", "plain", decodes=True),
    "ours": Contender("vae-serve", "vae-serve", ("--port", PORT)),
    "granian": Contender(
        "granian, RSGI by hand",
        "granian",
        (
            *("--interface", "rsgi", "--host", "127.0.0.1", "--port", PORT, "--no-ws", "--log-level", "warning"),
            "benchmarks.contenders.rsgi:app",
        ),
        "granian",
    ),
    "mosec": Contender(
        "mosec",
        "python",
        (
            "-m",
            "benchmarks.contenders.mosec_worker",
            "--address",
            "127.0.0.1",
            "--port",
            PORT,
            "--log-level",
            "warning",
        ),
        "mosec",
    ),
    "litserve-64": _python("LitServe, max_batch_size=64", "lit", "64", venv="litserve"),
    "litserve-1": _python("LitServe, max_batch_size=1", "lit", "1", venv="litserve"),
    "bentoml": Contender(
        "BentoML",
        "bentoml",
        ("serve", "benchmarks.contenders.bento:Decoder", "--host", "127.0.0.1", "--port", PORT),
        "bentoml",
        environment=("BENTOML_DO_NOT_TRACK=True",),
    ),
    "ray": _python(
        "Ray Serve",
        "rayserve",
        venv="ray",
        environment=(
            "RAY_AUTH_MODE=disabled",
            "RAY_USAGE_STATS_ENABLED=0",
            "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S=60",  # on one core it takes longer than the default of 5 s
        ),
    ),
}
"""The access log of all but vae-serve is off, which is faster; vae-serve runs on its defaults."""
VAE_SERVE = CONTENDERS["ours"].command
