"""Checks the image from outside: its files and user, its health check, each kind of response, and SIGTERM.

    python -m deploy.image.check URL -- COMMAND

COMMAND runs the image's service, reachable at URL; with further arguments it runs these as a command in the image.
"""

from __future__ import annotations

import gzip
import io
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
from PIL import Image

ROOT = Path(__file__).parents[2]
SEVEN = ROOT / "docs/seven.png"
START_LIMIT_S = 120
"""Seconds until the service must be ready."""
PNG = b"\x89PNG\r\n\x1a\n"
ORIGIN = b"[0,0,0]"
ZSTD_ORIGIN = b"\x28\xb5\x2f\xfd\x20\x07\x39\0\0" + ORIGIN
"""A latent as JSON, and the same JSON as a Zstandard frame with one uncompressed block."""
PICTURES = ("BMP", "GIF", "JPEG", "WEBP")
ARRAYS = ("application/json", "application/x-ndjson", "application/x-npy", "application/x-safetensors")
"""Formats of pictures in requests, by Pillow's names, and of responses, by their media types."""
INSIDE = """
import importlib.metadata, json, os, pathlib, shutil
try:
    pathlib.Path('/opt/vae/written').touch()
    writable = True
except OSError:
    writable = False
sbom = json.load(open('/usr/share/sbom/vae-service.cdx.json'))
tools = ('sh', 'bash', 'gcc', 'cc', 'ld', 'pip', 'apt', 'dpkg')
project = sbom['metadata'].get('component', {})
print(json.dumps({
    'uid': os.getuid(),
    'writable': writable,
    'tools': [tool for tool in tools if shutil.which(tool, path='/bin:/usr/bin:/usr/local/bin:/opt/vae/bin')],
    'installed': [each.name for each in importlib.metadata.distributions()],
    'listed': [each['name'] for each in [project, *sbom['components']] if each],
}))
"""

TORCH = """
from importlib.util import find_spec
from service.inference.loading import load_checkpoint
from service.settings import Settings
if find_spec('torch'):
    load_checkpoint(Settings(runtime='torch'))
    print('torch computes the checkpoint as its probes say.')
"""
HEALTH = """
import os, signal, socket, subprocess, sys, time
# tracing imports what no other check does; there is no collector
os.environ.update(VAE_TRACING='true', OTEL_TRACES_SAMPLER='always_off')
with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    os.environ['VAE_PORT'] = str(free.getsockname()[1])
def is_healthy():
    return subprocess.run(sys.argv[1:], stderr=subprocess.DEVNULL).returncode == 0
results = [is_healthy()]
service = subprocess.Popen(['vae-serve'])
while service.poll() is None and not is_healthy():
    time.sleep(0.2)
results.append(is_healthy())
service.send_signal(signal.SIGSTOP)
results.append(is_healthy())
service.send_signal(signal.SIGCONT)
service.terminate()
service.wait()
print(results)
"""


def main(url: str, command: list[str]) -> None:
    """Run all checks; raises AssertionError at the first failure."""
    check_inside(command)
    subprocess.run([*command, "python", "-c", TORCH], check=True)
    check_health(command)
    service = subprocess.Popen(command)
    try:
        with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
            wait_until_ready(client, service)
            check_responses(client)
            check_formats(client)
            check_stop(client, service)
    finally:
        if service.poll() is None:
            service.terminate()
            service.wait(60)
    print("The image passed: files and user, health check, responses, graceful stop.")


def check_inside(command: list[str]) -> None:
    """Check the image's content, and that it runs read-only and as another user."""
    output = subprocess.run([*command, "python", "-c", INSIDE], check=True, capture_output=True, text=True).stdout
    inside = json.loads(output.splitlines()[-1])
    assert inside["uid"] not in (0, 10001), "COMMAND must run the image as a user that is not in its /etc/passwd"
    assert not inside["writable"], "COMMAND must run the image read-only"
    assert not inside["tools"], inside["tools"]
    installed, listed = ({canonical(name) for name in inside[key]} for key in ("installed", "listed"))
    assert installed <= listed, f"not in the SBOM: {installed - listed}"
    assert "libc6" in listed, "the system's libraries are not in the SBOM"
    print(f"{len(installed)} Python packages, {len(listed)} in the SBOM.")


def check_health(command: list[str]) -> None:
    """Run the Dockerfile's HEALTHCHECK in the image: before the service starts, while it serves and while it hangs."""
    output = subprocess.run(
        [*command, "python", "-c", HEALTH, *healthcheck()], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    assert output.splitlines()[-1] == "[False, True, False]", output
    print("HEALTHCHECK is right before the start, while serving and while hanging.")


def healthcheck() -> list[str]:
    """Return the command of the Dockerfile's HEALTHCHECK."""
    instructions = (ROOT / "Dockerfile").read_text().replace("\\\n", "")
    (command,) = re.findall(r"^HEALTHCHECK .* CMD (\[.*\])$", instructions, re.MULTILINE)
    words: list[str] = json.loads(command)
    return words


def canonical(name: str) -> str:
    """Return the normalised name of a package (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def wait_until_ready(client: httpx.Client, service: subprocess.Popen[bytes]) -> None:
    """Wait until /readyz responds with 200."""
    start = time.monotonic()
    while time.monotonic() - start < START_LIMIT_S:
        assert service.poll() is None, f"the image exited with status {service.returncode}"
        try:
            if client.get("/readyz").status_code == 200:
                print(f"Ready after {time.monotonic() - start:.1f} s.")
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError(f"not ready within {START_LIMIT_S} s")


def check_responses(client: httpx.Client) -> None:
    """Check encode, decode, reconstruct, sample, the page, the documentation and the metrics."""
    seven, as_json = SEVEN.read_bytes(), {"content-type": "image/png", "accept": "application/json"}
    as_png = {"content-type": "image/png"}
    mean = ok(client.post("/encode", content=seven, headers=as_json)).json()["mean"]
    decoded = ok(client.post("/decode", json=mean)).content
    assert decoded.startswith(PNG)
    assert decoded == ok(client.post("/reconstruct", content=seven, headers=as_png)).content
    assert math.isfinite(ok(client.post("/reconstruct", content=seven, headers=as_json)).json()["elbo"])
    assert ok(client.get("/sample?n=4&seed=7")).content.startswith(PNG)
    (script,) = re.findall(r'src="(web/.*?)"', ok(client.get("/")).text)
    assert "import" in ok(client.get(script)).text
    assert "/openapi.json" in ok(client.get("/docs")).text
    assert "/encode" in ok(client.get("/openapi.json")).json()["paths"]
    assert "vae_requests_total{" in ok(client.get("/metrics")).text


def check_formats(client: httpx.Client) -> None:
    """Check the other routes, and each format of pictures, arrays and compressed bodies."""
    as_json = {"content-type": "application/json"}
    between = {"from": [-1, 0, 1], "to": [1, 1, 0], "method": "spherical"}
    assert ok(client.post("/interpolate", json=between)).content.startswith(PNG)
    assert ok(client.post("/traverse", json={"at": [0, 0, 0], "dimensions": [0, 1]})).content.startswith(PNG)
    assert ok(client.get("/latents")).json()["mean"]
    assert ok(client.get("/v2")).json()["extensions"] is not None
    with Image.open(SEVEN) as seven:
        for picture in PICTURES:
            body = io.BytesIO()
            seven.convert("L").save(body, picture)
            headers = {"content-type": f"image/{picture.lower()}"}
            ok(client.post("/encode", content=body.getvalue(), headers=headers))
    for media_type in ARRAYS:
        response = ok(client.post("/decode", content=ORIGIN, headers={**as_json, "accept": media_type}))
        assert response.headers["content-type"].startswith(media_type)
    for encoding, compressed in (("gzip", gzip.compress(ORIGIN)), ("zstd", ZSTD_ORIGIN)):
        ok(client.post("/decode", content=compressed, headers={**as_json, "content-encoding": encoding}))


def ok(response: httpx.Response) -> httpx.Response:
    """Return `response` if its status is 200; raises AssertionError otherwise."""
    assert response.status_code == 200, f"{response.request.url}: {response.status_code} {response.text}"
    return response


def check_stop(client: httpx.Client, service: subprocess.Popen[bytes]) -> None:
    """Send SIGTERM during a request: it is completed, /readyz is not 200 any more, and the exit status is 0."""
    url = client.base_url
    body = json.dumps([0.0] * ok(client.get("/model")).json()["latent_dim"]).encode()
    head = f"POST /decode HTTP/1.1\r\nhost: {url.host}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    with socket.create_connection((url.host, url.port or 80), timeout=30) as connection:
        connection.sendall(f"{head}\r\n\r\n".encode() + body[:1])
        time.sleep(0.2)
        service.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 5
        while client.get("/readyz").status_code == 200:
            assert time.monotonic() < deadline, "SIGTERM does not reach the service"
        connection.sendall(body[1:])
        response = connection.recv(65536)
    assert response.startswith(b"HTTP/1.1 200 "), response[:200]
    assert PNG in response
    assert service.wait(60) == 0, f"exit status {service.returncode} after SIGTERM"


if __name__ == "__main__":
    separator = sys.argv.index("--")
    main(sys.argv[separator - 1], sys.argv[separator + 1 :])
