"""Loading the checkpoint in another process, so that torch is not imported in this one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from service.inference.backend import OnnxBackend
from service.inference.loading import StartError, load_checkpoint
from service.inference.torch_backend import TorchBackend
from service.settings import BUNDLED, read_settings
from tests.live import ROOT, live_server
from tests.service.processes.test_server import SAMPLE
from vae import load

pytestmark = pytest.mark.slow

LOADS = """
import os, sys, time
from service.inference import loading
from service.settings import read_settings

def load(name, *flags):
    try:
        info, backend = loading.load_checkpoint(read_settings(list(flags)))
        result = f"{type(backend).__name__} {'torch' in sys.modules} {info.metadata.name} {len(info.latents)}"
    except loading.StartError as error:
        result = error
    print(f"{name}: {result}")

load("default")
load("damaged", "--checkpoint", sys.argv[1])
loading._translate = lambda *_: time.sleep(60)
loading.begin_to_load(read_settings([]))  # nothing waits for it
loading._translate = lambda *_: os._exit(9)
load("ended")
loading._translate = lambda _, sender: sender.send(loading.UnsupportedModel("it is too new"))
load("unsupported by onnx", "--runtime", "onnx")
load("unsupported")
load("torch", "--runtime", "torch")
"""
"""Loads in one process, those that import torch last, prints a line for each, and ends though one is not done."""


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("damaged") / "m.safetensors"
    path.write_bytes(BUNDLED.read_bytes()[:1000])
    return path


@pytest.fixture(scope="module")
def loads(damaged: Path) -> dict[str, str]:
    """What each of LOADS printed, by its name."""
    command = [sys.executable, "-c", LOADS, str(damaged)]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=50).stdout
    return dict(line.split(": ", 1) for line in output.splitlines())


@pytest.mark.parametrize(
    ("flags", "has_torch"), [((), False), (("--workers", "2"), False), (("--runtime", "torch"), True)]
)
def test_processes_that_serve_with_onnx_runtime_do_not_import_torch(flags: tuple[str, ...], has_torch: bool) -> None:
    with live_server(*flags) as server:
        assert server.get(SAMPLE).status_code == 200
        assert server.get("/latents").status_code == 200
        pid = server.process.pid
        workers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        maps = [Path(f"/proc/{each}/maps").read_text() for each in (pid, *workers)]
    assert len(workers) == flags.count("2") * 2
    assert ["libtorch_cpu" in each for each in maps] == [has_torch] * len(maps)


def test_another_process_reads_the_checkpoint(loads: dict[str, str]) -> None:
    assert loads["default"] == "OnnxBackend False mnist 2"
    assert loads["torch"] == "TorchBackend True mnist 2"


def test_torch_computes_a_model_that_cannot_be_translated(loads: dict[str, str]) -> None:
    assert loads["unsupported"] == "TorchBackend True mnist 2"
    expected = "ONNX Runtime cannot compute this model: it is too new. Leave VAE_RUNTIME unset."
    assert loads["unsupported by onnx"] == expected


def test_the_end_of_the_other_process_is_reported(loads: dict[str, str]) -> None:
    expected = f"The checkpoint {BUNDLED} cannot be read: the process that reads it ended with status 9."
    assert loads["ended"] == expected


def test_a_damaged_checkpoint_is_reported_alike_by_both(loads: dict[str, str], damaged: Path) -> None:
    with pytest.raises(StartError) as error:
        load_checkpoint(read_settings(["--checkpoint", str(damaged)]))
    assert loads["damaged"] == str(error.value)


def test_where_torch_is_imported_the_checkpoint_is_read_in_the_same_process() -> None:
    info, backend = load_checkpoint(read_settings([]))
    assert isinstance(backend, OnnxBackend)
    assert info.parameters == sum(parameter.numel() for parameter in load(BUNDLED).model.parameters())
    assert isinstance(load_checkpoint(read_settings(["--runtime", "torch"])).backend, TorchBackend)
