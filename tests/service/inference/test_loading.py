"""Who reads the checkpoint: another process, where this one can do without torch."""

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

LOAD = """
import os, sys
from service.inference import loading
from service.settings import read_settings
{patch}
try:
    known, network = loading.load_checkpoint(read_settings(sys.argv[1:]))
    print(type(network).__name__, "torch" in sys.modules, known.metadata.name, len(known.latents))
except loading.StartError as error:
    print(error)
"""
UNTRANSLATABLE = "loading._translate = lambda _, sender: sender.send(loading.UnsupportedModel('it is too new'))"


def in_a_fresh_process(*flags: str, patch: str = "") -> str:
    command = [sys.executable, "-c", LOAD.format(patch=patch), *flags]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize(
    ("flags", "has_torch"), [((), False), (("--workers", "2"), False), (("--runtime", "torch"), True)]
)
def test_torch_stays_out_of_what_serves_by_onnx_runtime(flags: tuple[str, ...], has_torch: bool) -> None:
    with live_server(*flags) as server:
        assert server.get(SAMPLE).status_code == 200
        assert server.get("/latents").status_code == 200
        pid = server.process.pid
        workers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        maps = [Path(f"/proc/{each}/maps").read_text() for each in (pid, *workers)]
    assert len(workers) == flags.count("2") * 2
    assert ["libtorch_cpu" in each for each in maps] == [has_torch] * len(maps)


def test_another_process_reads_what_this_one_serves() -> None:
    assert in_a_fresh_process() == "OnnxBackend False mnist 2"
    assert in_a_fresh_process("--runtime", "torch") == "TorchBackend True mnist 2"


def test_what_cannot_be_translated_is_torchs() -> None:
    assert in_a_fresh_process(patch=UNTRANSLATABLE) == "TorchBackend True mnist 2"
    complaint = in_a_fresh_process("--runtime", "onnx", patch=UNTRANSLATABLE)
    assert complaint == "ONNX Runtime cannot compute this model: it is too new. Leave VAE_RUNTIME unset."


def test_a_reader_that_dies_is_told(tmp_path: Path) -> None:
    told = in_a_fresh_process(patch="loading._translate = lambda *_: os._exit(9)")
    assert told == f"The checkpoint {BUNDLED} cannot be read: the process that reads it has ended with status 9."


def test_a_damaged_checkpoint_is_told_alike_by_both(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(BUNDLED.read_bytes()[:1000])
    with pytest.raises(StartError) as error:
        load_checkpoint(read_settings(["--checkpoint", str(path)]))
    assert in_a_fresh_process("--checkpoint", str(path)) == str(error.value)


def test_a_reader_that_nobody_waits_for_ends() -> None:
    patch = "loading.begin_to_load(read_settings([])); sys.exit()"
    assert in_a_fresh_process(patch=patch) == ""


def test_where_torch_is_here_it_is_read_here() -> None:
    known, backend = load_checkpoint(read_settings([]))
    assert isinstance(backend, OnnxBackend)
    assert known.parameters == sum(parameter.numel() for parameter in load(BUNDLED).model.parameters())
    assert isinstance(load_checkpoint(read_settings(["--runtime", "torch"])).backend, TorchBackend)
