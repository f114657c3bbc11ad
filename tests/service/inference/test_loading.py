"""Loading the checkpoint: what computes it, and that its results are torch's."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load as read_tensors
from safetensors.torch import save as serialize

import vae
from service.inference import loading
from service.inference.loading import StartError, load_checkpoint
from service.inference.onnx_backend import OnnxBackend
from service.inference.torch_backend import TorchBackend
from service.settings import BUNDLED, read_settings
from tests.live import ROOT, live_server
from tests.service.processes.test_server import SAMPLE
from tests.vae.autoencoder import write_folder

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from service.inference.loading import StartError, load_checkpoint
from service.settings import read_settings
for flags in (["--log-level", "info"], *(each.split() for each in sys.argv[1:])):
    try:
        print(type(load_checkpoint(read_settings(flags)).backend).__name__)
    except StartError as error:
        print(error)
"""
"""Loads the bundled checkpoint, and then with each argument's flags, where torch cannot be imported."""


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "m.safetensors"
    torch.manual_seed(0)
    vae.save(path, vae.VAE(vae.VAEConfig(hidden_dim=8)), training={}, metrics={})
    return path


def rewrite(path: Path, change: Callable[[dict[str, str]], object]) -> None:
    """Rewrite the metadata of the checkpoint at `path`."""
    content = path.read_bytes()
    metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    change(metadata)
    path.write_bytes(serialize(read_tensors(content), metadata))


def start_error(*flags: str) -> str:
    with pytest.raises(StartError) as caught:
        load_checkpoint(read_settings(list(flags)))
    return str(caught.value)


def test_the_bundled_checkpoint_is_computed_by_onnx_runtime_or_by_torch_if_asked() -> None:
    info, backend = load_checkpoint(read_settings([]))
    assert isinstance(backend, OnnxBackend)
    assert info.parameters == sum(parameter.numel() for parameter in vae.load(BUNDLED).model.parameters())
    assert info.latents is not None
    assert isinstance(load_checkpoint(read_settings(["--runtime", "torch"])).backend, TorchBackend)


def test_a_state_dict_is_computed_by_onnx_runtime(tmp_path: Path) -> None:
    path = tmp_path / "article.pt"
    torch.save(vae.load(BUNDLED).model.state_dict(), path)
    assert isinstance(load_checkpoint(read_settings(["--checkpoint", str(path)])).backend, OnnxBackend)


def test_without_torch_a_sentence_says_how_to_install_it(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.pt").touch()
    flags = [f"--checkpoint {tmp_path / name}" for name in ("folder", "a.pt")] + ["--runtime torch", "--device cuda"]
    command = [sys.executable, "-c", WITHOUT_TORCH, *flags]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=50).stdout
    first, *others = output.splitlines()
    assert first == "OnnxBackend"
    extras = {"a folder of diffusers": "diffusers"}
    extras |= dict.fromkeys(("a .pt file", "a model with runtime torch", "a model on cuda"), "torch")
    assert others == [
        f"To load {what}, install torch: pip install 'vae-service[{extra}]'." for what, extra in extras.items()
    ]


@pytest.mark.slow
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


def test_onnx_runtime_computes_no_other_model_and_device(tmp_path: Path) -> None:
    write_folder(tmp_path)
    expected = "ONNX Runtime computes checkpoints of vae-train, on the CPU. Leave VAE_RUNTIME unset."
    assert start_error("--runtime", "onnx", "--checkpoint", str(tmp_path)) == expected
    assert start_error("--runtime", "onnx", "--device", "cuda") == expected


def test_results_are_compared_with_those_of_torch(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Probes of another model: nothing may serve this one."""
    flags = ("--checkpoint", str(checkpoint))
    assert isinstance(load_checkpoint(read_settings([*flags])).backend, OnnxBackend)
    other = vae.VAE(vae.VAEConfig(hidden_dim=8))
    rewrite(checkpoint, lambda metadata: metadata.update(probes=str(vae.checkpoint.compute_probes(other))))
    end = f"computes other results from {checkpoint} on this machine than torch did when it was saved."
    assert start_error(*flags) == f"torch {end}"
    assert f"ONNX Runtime {end}" in caplog.text
    assert start_error(*flags, "--runtime", "onnx") == f"ONNX Runtime {end}"


def test_torch_computes_what_onnx_runtime_gets_wrong(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--checkpoint", str(checkpoint)]
    decode = OnnxBackend.decode
    monkeypatch.setattr(OnnxBackend, "decode", lambda backend, z: 1 - decode(backend, z))
    assert isinstance(load_checkpoint(read_settings(flags)).backend, TorchBackend)
    monkeypatch.setattr(loading, "find_spec", lambda _: None)  # torch is not installed
    assert start_error(*flags).startswith("ONNX Runtime computes other results")


def test_a_checkpoint_without_probes_is_reported(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    flags = ["--checkpoint", str(checkpoint)]
    with caplog.at_level(logging.INFO, "vae-service"):
        load_checkpoint(read_settings(flags))
        assert "no probes" not in caplog.text
        rewrite(checkpoint, lambda metadata: metadata.pop("probes"))
        load_checkpoint(read_settings(flags))
    assert "no probes" in caplog.text


def test_damaged_probes_are_rejected(checkpoint: Path) -> None:
    rewrite(checkpoint, lambda metadata: metadata.update(probes="AAAA"))
    assert "its metadata field probes is damaged" in start_error("--checkpoint", str(checkpoint))
