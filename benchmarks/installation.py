"""What it takes to install and to start the service, and others: a venv of its own for each, measured in turn.

    python -m benchmarks.installation [--only NAME ...] [--torch-index-url URL]

takes a quarter of an hour, and 6 GB for each server that computes with torch, unless the URL is of torch's CPU build.
Writes installation.md.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.contenders import CONTENDERS, HERE, PORT
from benchmarks.harness.load import CALLS, ask, connect, free_port, serving, wait_until_ready
from benchmarks.harness.pages import table, write_page
from benchmarks.harness.processes import ROOT, launched, sampled

DECODE = CALLS["decode"]
STARTS = 5
POLL_S = 0.002
REQUESTS = 1000
OURS = "vae-serve"


@dataclass(frozen=True)
class Installation:
    """`packages` as pip takes them; `command` starts a server, if there is one, with a program of the venv."""

    packages: tuple[str, ...]
    command: tuple[str, ...] = ()
    torch: bool = False


_OTHERS = ("torch", "numpy", "pillow", "safetensors")  # what benchmarks/contenders/digits.py imports
INSTALLATIONS = {
    OURS: Installation((str(ROOT),), ("vae-serve", "--port", PORT)),
    "FastAPI with torch": Installation(
        ("fastapi", "uvicorn[standard]", *_OTHERS), ("uvicorn", *CONTENDERS["plain"].arguments), torch=True
    ),
    "LitServe": Installation(
        ("--requirement", str(HERE / "litserve.txt"), *_OTHERS),
        ("python", *CONTENDERS["litserve-64"].arguments),
        torch=True,
    ),
    "BentoML": Installation(
        ("--requirement", str(HERE / "bentoml.txt"), *_OTHERS),
        ("env", *CONTENDERS["bentoml"].environment, "bentoml", *CONTENDERS["bentoml"].arguments),
        torch=True,
    ),
    "vae-client": Installation((str(ROOT / "vae_client"),)),
}


HEAD = (
    "",
    "installation, s",
    "venv, MB",
    "exec to the first image, s",
    "÷ `import torch`",
    "most memory until then, MB",
    f"memory after {REQUESTS:,} requests, MB",
)
TEXT = (
    f"Each has a new venv, made by pip with its cache. Starts are medians of {STARTS}, in "
    "turn with `import torch`, on any core, with files in the page cache. Memory is the proportional set size of all "
    "processes, MB of 10⁶ bytes. The others compute the same model with torch and write its image with Pillow."
)


def install(folder: Path, installation: Installation, torch_index_url: str | None) -> float:
    """Make a venv and install into it; returns the seconds that this takes."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [str(folder / "bin" / "pip"), "--disable-pip-version-check", "install", "--quiet"]
    if installation.torch and torch_index_url:
        subprocess.run([*pip, "--index-url", torch_index_url, "torch"], check=True)
    subprocess.run([*pip, *installation.packages], check=True)
    return time.perf_counter() - start


def size_mb(folder: Path) -> float:
    """What `du` counts: blocks of the disk."""
    output = subprocess.run(["du", "--summarize", "--block-size=1000", folder], stdout=subprocess.PIPE, check=True)
    return int(output.stdout.split()[0]) / 1000


def path_of(folder: Path) -> tuple[str, str]:
    """What runs a command with the venv's programs."""
    return "env", f"PATH={folder / 'bin'}:/usr/bin:/bin"


def seconds_to_ready(command: Sequence[str]) -> float:
    """Start a server and wait for its first image."""
    start = time.perf_counter()
    with serving(command, ready=DECODE, interval=POLL_S):
        return time.perf_counter() - start


def seconds_to_import_torch(folder: Path) -> float:
    """Import torch in a new process."""
    start = time.perf_counter()
    subprocess.run([folder / "bin" / "python", "-c", "import torch"], check=True)
    return time.perf_counter() - start


def memory(command: Sequence[str]) -> tuple[float, float]:
    """The most until the first image, and after REQUESTS."""
    port = free_port()
    command = [argument.replace(PORT, str(port)) for argument in command]
    with launched(command) as tree, sampled(lambda: sum(tree.memory_mb())) as samples:
        wait_until_ready(port, DECODE, POLL_S, tree.check)
        peak = max(samples)
        connection = connect(port)
        for _ in range(REQUESTS):
            ask(connection, DECODE)
        return peak, sum(tree.memory_mb())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=INSTALLATIONS, default=list(INSTALLATIONS), metavar="NAME")
    parser.add_argument("--torch-index-url", metavar="URL", help="where pip takes torch from")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        folders = {name: Path(root) / str(number) for number, name in enumerate(options.only)}
        rows = {name: [name] for name in folders}
        for name, folder in folders.items():
            seconds = install(folder, INSTALLATIONS[name], options.torch_index_url)
            rows[name] += [f"{seconds:.0f}", f"{size_mb(folder):,.0f}"]
        servers = {
            name: [*path_of(folders[name]), *each.command]
            for name, each in INSTALLATIONS.items()
            if each.command and name in folders
        }
        with_torch = next((folders[name] for name in folders if INSTALLATIONS[name].torch), None)
        ready: dict[str, list[float]] = {name: [] for name in servers}
        imports: list[float] = []
        for _ in range(STARTS):
            if with_torch:
                imports.append(seconds_to_import_torch(with_torch))
            for name, command in servers.items():
                ready[name].append(seconds_to_ready(command))
        for name, command in servers.items():
            seconds = median(ready[name])
            relative = f"{seconds / median(imports):.2f}" if imports else ""
            rows[name] += [f"{seconds:.2f}", relative, *(f"{each:,.0f}" for each in memory(command))]
    write_page(
        "installation",
        "Installation and start, measured",
        TEXT,
        table(HEAD, ([*row, *[""] * (len(HEAD) - len(row))] for row in rows.values())),
    )


if __name__ == "__main__":
    main()
