"""Without the extra `training` each command says how to install it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXTRAS = (
    "matplotlib",
    "onnx",
    "onnxscript",
    "plotly",
    "pyarrow",
    "tensorboard",
    "torch",
    "torchvision",
    "tqdm",
    "yaml",
)
RUN = """
import contextlib, io, json, sys
extras, runs = json.load(sys.stdin)
for missing, arguments in runs:
    for name in list(sys.modules):
        if name.partition(".")[0] in ("training", *missing):
            del sys.modules[name]
    hidden = {name: sys.modules.get(name) for name in missing}
    sys.modules.update(dict.fromkeys(missing))  # importing one of these raises ModuleNotFoundError
    from training.__main__ import main
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            status = main(arguments)
        except SystemExit as stop:
            status = stop.code
    print(json.dumps([status, printed.getvalue()]))
    for name in missing:
        del sys.modules[name]
"""


def run(folder: Path, *runs: tuple[tuple[str, ...], list[str]]) -> list[tuple[int, str]]:
    """Status and output of commands, each without some packages, in one process."""
    given = json.dumps([EXTRAS, runs])
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{RUN}"]
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=True, cwd=folder, timeout=120)
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def test_help_needs_none_of_it(tmp_path: Path) -> None:
    for status, printed in run(tmp_path, (EXTRAS, ["--help"]), (EXTRAS, ["fit", "--help"])):
        assert status == 0
        assert printed.startswith("usage: vae-train")


def test_what_is_missing_is_named_with_the_command_that_installs_it(tmp_path: Path) -> None:
    checkpoint = str(ROOT / "weights" / "mnist.safetensors")
    commands = {
        "torch": ["evaluate", checkpoint],
        "tensorboard": ["fit", "--tensorboard"],
        "torchvision": ["fit"],
        "tqdm": ["fit"],
        "yaml": ["fit", "--config", "a.yaml"],
        "pyarrow": ["encode", str(ROOT / "docs"), "--out", "encoded"],
        "matplotlib": ["plot", checkpoint],
        "plotly": ["plot", checkpoint],
        "onnxscript": ["export", checkpoint],
    }
    found = run(tmp_path, *(((module,), command) for module, command in commands.items()))
    for (module, command), (status, printed) in zip(commands.items(), found, strict=True):
        assert status == 1, printed
        wanted = f"vae-train {command[0]} needs {module}, which is not installed"
        assert printed.splitlines()[-1] == f"{wanted}: pip install 'vae-service[training]'."
