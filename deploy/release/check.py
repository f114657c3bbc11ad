"""Builds the distributions of a release, checks them and writes the release notes.

    python -m deploy.release.check OUT [TAG]

OUT/vae-service and OUT/vae-client get a wheel and an sdist each, OUT/notes.md the notes. TAG is the tag of the release,
`v` and the version; without it the notes may be those of the section Unreleased.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from deploy.release.notes import common_version, release_notes

ROOT = Path(__file__).parents[2]
SOURCES = {"vae-service": ROOT, "vae-client": ROOT / "vae_client"}
"""Folder of the pyproject.toml of each distribution."""
START_LIMIT_S = 60
"""Seconds until the service must be ready."""
ASK = """
import sys
from vae_client import Client
with Client(sys.argv[1]) as client:
    print(client.decode(client.encode(sys.argv[2]).mean).pixels.shape)
"""


def main(out: Path, tag: str | None = None) -> None:
    """Build, check and write everything; raises an error at the first failure."""
    for name, source in SOURCES.items():
        run("-m", "build", "--quiet", "--outdir", out / name, source)  # the sdist, and the wheel from it
    distributions = [path for name in SOURCES for path in sorted((out / name).iterdir())]
    run("-m", "twine", "check", "--strict", *distributions)
    version = common_version(distributions)
    (out / "notes.md").write_text(release_notes((ROOT / "CHANGELOG.md").read_text(), version, tag) + "\n")
    with tempfile.TemporaryDirectory() as folder:
        service, client = (install(out / name, Path(folder) / name) for name in SOURCES)
        check_service(service, client, Path(folder))
    print(f"{out} holds version {version}: built, installed, and the client decoded a latent of the service.")


def run(*arguments: str | Path) -> None:
    """Run Python with `arguments`; raises CalledProcessError if it fails."""
    subprocess.run([sys.executable, *arguments], check=True)


def install(distributions: Path, venv: Path) -> Path:
    """Install the wheel in `distributions` into a new virtual environment, and return its folder of programs."""
    (wheel,) = distributions.glob("*.whl")
    run("-m", "venv", venv)
    subprocess.run([venv / "bin/python", "-I", "-m", "pip", "install", "--quiet", wheel.absolute()], check=True)
    return venv / "bin"


def check_service(service: Path, client: Path, folder: Path) -> None:
    """Start the installed service in `folder`, encode and decode an image with the installed client, and stop it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    serve = [str(service / "python"), "-I", str(service / "vae-serve"), "--port", str(port)]
    process = subprocess.Popen(serve, cwd=folder)
    try:
        wait_until_ready(url, process)
        command = [str(client / "python"), "-I", "-c", ASK, url, str(ROOT / "docs/seven.png")]
        shape = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        assert shape == "(1, 28, 28)", shape
    finally:
        process.terminate()
        status = process.wait(60)
    assert status == 0, f"exit status {status} after SIGTERM"


def wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until /readyz responds with 200."""
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        assert process.poll() is None, f"vae-serve exited with status {process.returncode}"
        try:
            if httpx.get(f"{url}/readyz", trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError(f"not ready within {START_LIMIT_S} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
