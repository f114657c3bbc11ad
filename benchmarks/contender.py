"""Who is measured, and how each is set up and started.

The frameworks live in a venv each, from a file of pinned requirements. A venv sees the packages of this interpreter
behind its own, so that torch is installed once and is the same for all.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
VENVS = HERE / ".venvs"
PORT = "{port}"


@dataclass(frozen=True)
class Contender:
    """`command` begins with a program of its venv's bin; PORT in it is replaced."""

    label: str
    command: tuple[str, ...]
    venv: str = ""
    decodes: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def requirements(self) -> Path:
        """What its venv holds, pinned."""
        return HERE / "contenders" / f"{self.venv}.txt"

    def set_up(self) -> None:
        """Make its venv, where it has one of its own, unless this interpreter made it from the same pins."""
        if not self.venv:
            return
        folder = VENVS / self.venv
        made_from = f"{sys.prefix}\n{self.requirements.read_text()}"
        note = folder / "made-from.txt"
        if note.exists() and note.read_text() == made_from:
            return
        print(f"Setting up {self.label} in {folder.relative_to(HERE.parent)}.", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        paths = {"base": str(folder), "platbase": str(folder)}
        shared = Path(sysconfig.get_path("purelib", "venv", paths)) / "shared.pth"
        shared.write_text(sysconfig.get_path("purelib") + "\n")
        pip = [str(folder / "bin" / "pip"), "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*pip, "--requirement", str(self.requirements)], check=True)
        note.write_text(made_from)

    def start_command(self, port: int) -> list[str]:
        """What starts it on `port`."""
        program, *arguments = self.command
        folder = VENVS / self.venv / "bin" if self.venv else Path(sys.executable).parent
        return [str(folder / program), *(argument.replace(PORT, str(port)) for argument in arguments)]


def framework_version(name: str) -> str:
    """As the requirements of its venv pin it."""
    pins = (HERE / "contenders" / f"{name}.txt").read_text().splitlines()
    return dict(pin.split("==") for pin in pins)[name]


def _uvicorn(module: str) -> tuple[str, ...]:
    return ("uvicorn", f"benchmarks.contenders.{module}:app", "--port", PORT, "--no-access-log")


def _lit(batch_size: int) -> Contender:
    label = f"LitServe, max_batch_size={batch_size}"
    return Contender(label, ("python", "-m", "benchmarks.contenders.lit", PORT, str(batch_size)), "litserve")


CONTENDERS = {
    "bare": Contender("bare ASGI function", _uvicorn("bare"), decodes=False),
    "bare-connection": Contender(
        "bare ASGI function, vae-serve's connections",
        ("python", "-m", "benchmarks.contenders.bare_connection", PORT),
        decodes=False,
    ),
    "noop": Contender("FastAPI doing nothing", _uvicorn("noop"), decodes=False),
    "plain": Contender("FastAPI, plainly written", _uvicorn("plain")),
    "ours": Contender("vae-serve", ("vae-serve", "--port", PORT)),
    "litserve-64": _lit(64),
    "litserve-1": _lit(1),
    "bentoml": Contender(
        "BentoML",
        ("bentoml", "serve", "benchmarks.contenders.bento:Decoder", "--host", "127.0.0.1", "--port", PORT),
        "bentoml",
        environment={"BENTOML_DO_NOT_TRACK": "True"},
    ),
    "ray": Contender(
        "Ray Serve",
        ("python", "-m", "benchmarks.contenders.rayserve", PORT),
        "ray",
        environment={
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # one core takes longer than the five seconds it allows
        },
    ),
}
"""The access log of all but ours is off, which is faster; ours is as it comes."""
