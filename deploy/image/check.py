"""The image, from outside: everything is asked of it once, and a stop loses nothing.

    python -m deploy.image.check URL -- COMMAND

COMMAND runs the image, reachable at URL; with further words it runs these in the place of the service.
"""

from __future__ import annotations

import json
import math
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]
SEVEN = ROOT / "docs/seven.png"
START_LIMIT_S = 120
PNG = b"\x89PNG\r\n\x1a\n"
INSIDE = """
import importlib.metadata, json, os, pathlib, shutil
try:
    pathlib.Path('/opt/vae/written').touch()
    writable = True
except OSError:
    writable = False
sbom = json.load(open('/usr/share/sbom/vae-service.cdx.json'))
tools = ('sh', 'bash', 'gcc', 'cc', 'ld', 'pip', 'apt', 'dpkg')
own = sbom['metadata'].get('component', {})
print(json.dumps({
    'uid': os.getuid(),
    'writable': writable,
    'tools': [tool for tool in tools if shutil.which(tool, path='/bin:/usr/bin:/usr/local/bin:/opt/vae/bin')],
    'installed': [each.name for each in importlib.metadata.distributions()],
    'listed': [each['name'] for each in [own, *sbom['components']] if each],
}))
"""

HEALTH = """
import os, signal, socket, subprocess, sys, time
with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    os.environ['VAE_PORT'] = str(free.getsockname()[1])
def is_healthy():
    return subprocess.run(sys.argv[1:], stderr=subprocess.DEVNULL).returncode == 0
told = [is_healthy()]
service = subprocess.Popen(['vae-serve'])
while service.poll() is None and not is_healthy():
    time.sleep(0.2)
told.append(is_healthy())
service.send_signal(signal.SIGSTOP)
told.append(is_healthy())
service.send_signal(signal.SIGCONT)
service.terminate()
service.wait()
print(told)
"""


def main(url: str, command: list[str]) -> None:
    """Raises AssertionError at the first thing that is not as it should be."""
    check_inside(command)
    check_health(command)
    service = subprocess.Popen(command)
    try:
        with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
            wait_until_ready(client, service)
            check_answers(client)
            check_stop(client, service)
    finally:
        if service.poll() is None:
            service.terminate()
            service.wait(60)
    print("The image is sound: read-only, as another user, healthy, all answers, a stop that loses nothing.")


def check_inside(command: list[str]) -> None:
    """What is in the image, who runs it, and that its files cannot be written."""
    told = subprocess.run([*command, "python", "-c", INSIDE], check=True, capture_output=True, text=True).stdout
    inside = json.loads(told.splitlines()[-1])
    assert inside["uid"] not in (0, 10001), "COMMAND has to run the image as a user that it does not know"
    assert not inside["writable"], "COMMAND has to run the image read-only"
    assert not inside["tools"], inside["tools"]
    installed, listed = ({canonical(name) for name in inside[key]} for key in ("installed", "listed"))
    assert installed <= listed, f"not in the SBOM: {installed - listed}"
    assert "libc6" in listed, "the system's libraries are not in the SBOM"
    print(f"{len(installed)} Python packages, {len(listed)} in the SBOM.")


def check_health(command: list[str]) -> None:
    """The Dockerfile's HEALTHCHECK, run in the image: before the service starts, while it serves, when it hangs."""
    told = subprocess.run(
        [*command, "python", "-c", HEALTH, *healthcheck()], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    assert told.splitlines()[-1] == "[False, True, False]", told
    print("HEALTHCHECK says what is so.")


def healthcheck() -> list[str]:
    """Its command."""
    instructions = (ROOT / "Dockerfile").read_text().replace("\\\n", "")
    (command,) = re.findall(r"^HEALTHCHECK .* CMD (\[.*\])$", instructions, re.MULTILINE)
    words: list[str] = json.loads(command)
    return words


def canonical(name: str) -> str:
    """The name of a package as pip spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def wait_until_ready(client: httpx.Client, service: subprocess.Popen[bytes]) -> None:
    """Until /readyz says 200."""
    start = time.monotonic()
    while time.monotonic() - start < START_LIMIT_S:
        assert service.poll() is None, f"the image ended with status {service.returncode}"
        try:
            if client.get("/readyz").status_code == 200:
                print(f"Ready after {time.monotonic() - start:.1f} s.")
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError(f"not ready within {START_LIMIT_S} s")


def check_answers(client: httpx.Client) -> None:
    """Encode, decode, reconstruct, sample; the page, the documentation, the metrics."""
    seven, as_json = SEVEN.read_bytes(), {"content-type": "image/png", "accept": "application/json"}
    as_png = {"content-type": "image/png"}
    mean = answer(client.post("/encode", content=seven, headers=as_json)).json()["mean"]
    decoded = answer(client.post("/decode", json=mean)).content
    assert decoded.startswith(PNG)
    assert decoded == answer(client.post("/reconstruct", content=seven, headers=as_png)).content
    assert math.isfinite(answer(client.post("/reconstruct", content=seven, headers=as_json)).json()["elbo"])
    assert answer(client.get("/sample?n=4&seed=7")).content.startswith(PNG)
    (plotly,) = re.findall(r'name="plotly" content="(.*?)"', answer(client.get("/")).text)
    assert "plotly" in answer(client.get(plotly)).text
    assert "/openapi.json" in answer(client.get("/docs")).text
    assert "vae_requests_total{" in answer(client.get("/metrics")).text


def answer(response: httpx.Response) -> httpx.Response:
    """`response`, which is 200."""
    assert response.status_code == 200, f"{response.request.url}: {response.status_code} {response.text}"
    return response


def check_stop(client: httpx.Client, service: subprocess.Popen[bytes]) -> None:
    """SIGTERM in the middle of a request: it is answered, nobody else comes in, exit status 0."""
    url = client.base_url
    body = json.dumps([0.0] * answer(client.get("/model")).json()["latent_dim"]).encode()
    head = f"POST /decode HTTP/1.1\r\nhost: {url.host}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    with socket.create_connection((url.host, url.port or 80), timeout=30) as connection:
        connection.sendall(f"{head}\r\n\r\n".encode() + body[:1])
        time.sleep(0.2)
        service.send_signal(signal.SIGTERM)
        give_up = time.monotonic() + 5
        while client.get("/readyz").status_code == 200:
            assert time.monotonic() < give_up, "SIGTERM does not reach the service"
        connection.sendall(body[1:])
        reply = connection.recv(65536)
    assert reply.startswith(b"HTTP/1.1 200 "), reply[:200]
    assert PNG in reply
    assert service.wait(60) == 0, f"exit status {service.returncode} after SIGTERM"


if __name__ == "__main__":
    separator = sys.argv.index("--")
    main(sys.argv[separator - 1], sys.argv[separator + 1 :])
