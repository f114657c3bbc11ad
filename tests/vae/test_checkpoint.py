import errno
import hashlib
import io
import json
import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load as read_tensors
from safetensors.torch import save as serialize

import vae
from tests.vae.test_model import ARTICLE_SHAPES
from vae.arrays import FORMAT, FORMAT_VERSION, read

TRAINING = {"epochs": 10, "optimizer": {"name": "adam"}}
METRICS = {"test_neg_elbo": 138.5}


@pytest.fixture
def path(tmp_path: Path, small: vae.VAE) -> Path:
    """A valid checkpoint of a tiny model."""
    path = tmp_path / "digits.safetensors"
    vae.save(path, small, training=TRAINING, metrics=METRICS)
    return path


def load_error(path: Path) -> str:
    """The message with which the file at `path` is rejected: one sentence that names it."""
    with pytest.raises(vae.CheckpointError) as caught:
        vae.load(path)
    message = str(caught.value)
    assert str(path) in message
    assert message.endswith((".", "?"))
    assert "\n" not in message
    return message


def rewrite(path: Path, change: Callable[[dict[str, torch.Tensor], dict[str, str]], Any]) -> None:
    """Rewrite the checkpoint at `path` after `change` has modified its tensors and metadata."""
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    tensors, metadata = read_tensors(content), header["__metadata__"]
    change(tensors, metadata)
    path.write_bytes(serialize(tensors, metadata))


def test_load_returns_what_was_saved(path: Path, small: vae.VAE) -> None:
    loaded = vae.load(path)
    assert loaded.name == "digits"
    assert loaded.model.config == small.config
    assert loaded.training == TRAINING
    assert loaded.metrics == METRICS
    assert loaded.format_version == FORMAT_VERSION
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    state, saved = loaded.model.state_dict(), small.state_dict()
    assert state.keys() == saved.keys()
    assert all(torch.equal(state[name], saved[name]) for name in saved)


def test_a_calibration_is_kept(path: Path, small: vae.VAE) -> None:
    assert vae.load(path).calibration is None
    scores = np.linspace(100, 200, 50, dtype=np.float32)
    calibration = vae.Calibration.of(scores, scores, "neg_elbo", draws=10, samples=0, seed=0)
    vae.save(path, small, training=TRAINING, metrics=METRICS, calibration=calibration)
    assert vae.load(path).calibration == calibration


def test_references_are_kept(path: Path, small: vae.VAE) -> None:
    assert vae.load(path).references is None
    scores = np.linspace(0.5, 2, 50, dtype=np.float32)
    calibration = vae.Calibration.of(scores, scores, "outlier_factor", draws=10, samples=0, seed=0)
    with pytest.raises(ValueError, match="give the references"):
        vae.save(path, small, training=TRAINING, metrics=METRICS, calibration=calibration)
    mean = np.random.default_rng(0).random((30, small.config.latent_dim), np.float32)
    references = vae.References.of(mean)
    vae.save(path, small, training=TRAINING, metrics=METRICS, calibration=calibration, references=references)
    loaded = vae.load(path)
    assert loaded.references is not None
    np.testing.assert_array_equal(loaded.references.outlier_factor(mean), references.outlier_factor(mean))
    assert loaded.model.metadata is not None
    assert loaded.model.metadata.references is loaded.references
    rewrite(path, lambda _, metadata: metadata.pop("references"))
    assert "its calibration is of outlier factors, but it lacks the metadata field references." in load_error(path)


def test_a_latent_map_is_saved_whatever_the_memory_format(tmp_path: Path) -> None:
    config = vae.VAEConfig("resnet", (3, 8, 8), hidden_dim=16, latent_map=(2, 4, 4))
    model = vae.VAE(config).to(memory_format=torch.channels_last)
    path = tmp_path / "maps.safetensors"
    vae.save(path, model, training={}, metrics={})
    assert vae.load(path).model.config == config
    probes = read(path).probes
    assert probes is not None
    expected = *model.encode(torch.from_numpy(probes.images)), model.decode(torch.from_numpy(probes.z)).sigmoid()
    for saved, computed in zip((probes.mean, probes.log_variance, probes.decoded), expected, strict=True):
        assert torch.allclose(torch.from_numpy(saved), computed, atol=1e-5)


def test_model_is_ready_to_serve(path: Path) -> None:
    model = vae.load(path).model
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


def test_half_precision_is_read_as_float32(path: Path) -> None:
    rewrite(path, lambda tensors, _: tensors.update({n: t.bfloat16() for n, t in tensors.items()}))
    assert {parameter.dtype for parameter in vae.load(path).model.parameters()} == {torch.float32}


def test_saving_creates_the_folder_and_leaves_no_temporary_file(tmp_path: Path, small: vae.VAE) -> None:
    path = tmp_path / "new" / "model.safetensors"
    for _ in range(2):
        vae.save(path, small, training={}, metrics={})
    assert list(path.parent.iterdir()) == [path]


def test_failed_save_keeps_the_old_file(path: Path, small: vae.VAE, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def full_disk(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        vae.save(path, small, training={"epochs": 99}, metrics={})
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_missing_file(tmp_path: Path) -> None:
    assert "No such file" in load_error(tmp_path / "none.safetensors")
    assert "Is a directory" in load_error(tmp_path)


def test_truncated_file_is_never_loaded(path: Path) -> None:
    content = path.read_bytes()
    for length in [*range(64), *range(64, len(content), 997), len(content) - 1]:
        path.write_bytes(content[:length])
        assert "not a complete safetensors file" in load_error(path)


def test_safetensors_of_another_program(path: Path) -> None:
    path.write_bytes(serialize({"weight": torch.zeros(2)}))
    assert f"format={FORMAT}" in load_error(path)
    rewritten = serialize(read_tensors(path.read_bytes()), {"format": "pt"})
    path.write_bytes(rewritten)
    assert f"format={FORMAT}" in load_error(path)


def test_newer_format_version(path: Path) -> None:
    rewrite(path, lambda _, metadata: metadata.update(format_version="2"))
    assert "format version 2; this release reads version 1" in load_error(path)


@pytest.mark.parametrize(
    ("field", "text", "expected"),
    [
        ("config", "{", "config is not JSON"),
        ("training", "[" * 100_000, "training is not JSON"),
        ("figures", "[]", "figures is not a JSON object"),
        ("calibration", "[]", "calibration is not a JSON object"),
        ("calibration", '{"score": "neg_elbo"}', "calibration cannot be used: it must have the fields score, draws"),
        ("references", "?", "references is damaged"),
        ("references", "AAAA", "references is damaged"),
        ("config", "{}", "image_shape"),
        ("config", '{"image_shape": 28}', "configuration"),
        ("config", '{"image_shape": [1, 28, 28], "layers": 3}', "layers"),
        ("config", '{"image_shape": [1, 28, 28], "hidden_dim": "8"}', "hidden_dim is '8'"),
        ("config", '{"image_shape": [1, 28, 28], "hidden_dim": 9}', "(8,); it must be (9,)"),
        ("config", '{"image_shape": [1, 28, 28], "hidden_dim": 100000000000000000}', "must be (100000000000000000,)"),
    ],
)
def test_invalid_metadata(path: Path, field: str, text: str, expected: str) -> None:
    rewrite(path, lambda _, metadata: metadata.update({field: text}))
    assert expected in load_error(path)


def test_wrong_shape(path: Path) -> None:
    rewrite(path, lambda tensors, _: tensors.update({"mean_layer.bias": torch.zeros(4)}))
    assert "mean_layer.bias has the shape (4,); it must be (3,)" in load_error(path)


def test_missing_and_unexpected_tensors(path: Path) -> None:
    rewrite(path, lambda tensors, _: tensors.update(extra=torch.zeros(1)))
    assert "extra is not part" in load_error(path)
    rewrite(path, lambda tensors, _: (tensors.pop("extra"), tensors.pop("mean_layer.bias")))
    assert "mean_layer.bias is missing" in load_error(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_must_be_finite(path: Path, value: float) -> None:
    rewrite(path, lambda tensors, _: tensors["decoder.0.weight"][3, 1].fill_(value))
    assert "decoder.0.weight holds values that are not finite" in load_error(path)


def test_weights_must_be_floating(path: Path) -> None:
    rewrite(path, lambda tensors, _: tensors.update({"mean_layer.bias": torch.zeros(3, dtype=torch.int64)}))
    assert "mean_layer.bias" in load_error(path)


class Trap:
    """An object that writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.target, "sprung")


@pytest.mark.parametrize("name", ["trap.pt", "trap.pth", "trap.safetensors"])
@pytest.mark.parametrize("write", [pickle.dumps, lambda trap: torch_bytes({"encoder.0.weight": trap})])
def test_pickle_is_never_run(tmp_path: Path, name: str, write: Callable[[Trap], bytes]) -> None:
    content, target = write(Trap(tmp_path / "sprung")), tmp_path / "sprung"
    (tmp_path / name).write_bytes(content)
    load_error(tmp_path / name)
    assert not target.exists()
    torch.load(io.BytesIO(content), weights_only=False) if content[:2] == b"PK" else pickle.loads(content)
    assert target.exists()  # it does run where pickle is allowed


def torch_bytes(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def write_state_dict(path: Path, state: dict[Any, Any]) -> Path:
    path.write_bytes(torch_bytes(state))
    return path


def test_articles_state_dict_is_read(tmp_path: Path, x: torch.Tensor) -> None:
    state = {name: torch.randn(shape) / 20 for name, shape in ARTICLE_SHAPES.items()}
    loaded = vae.load(write_state_dict(tmp_path / "variational_autoencoder.pt", state))
    assert loaded.model.config == vae.VAEConfig()
    assert (loaded.name, loaded.format_version) == ("variational_autoencoder", 0)
    assert loaded.training == loaded.metrics == {}
    hidden = torch.nn.functional.leaky_relu(x.flatten(1) @ state["encoder.0.weight"].T + state["encoder.0.bias"], 0.3)
    hidden = torch.nn.functional.leaky_relu(hidden @ state["encoder.2.weight"].T + state["encoder.2.bias"], 0.3)
    wanted = hidden @ state["mean_layer.weight"].T + state["mean_layer.bias"]
    torch.testing.assert_close(loaded.model.encode(x)[0], wanted)


@pytest.mark.parametrize(("pixels", "shape"), [(16, (1, 4, 4)), (48, (3, 4, 4))])
def test_state_dict_for_other_image_shapes(tmp_path: Path, pixels: int, shape: tuple[int, int, int]) -> None:
    config = vae.VAEConfig(image_shape=shape, hidden_dim=5, latent_dim=2)
    path = write_state_dict(tmp_path / "other.pt", dict(vae.VAE(config).state_dict()))
    assert vae.load(path).model.config == config


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"encoder.0.weight": torch.zeros(8, 10)}, "have 10 values; a square image"),
        ({"encoder.0.weight": torch.zeros(8, 0)}, "image_shape"),
        ({"encoder.0.weight": torch.zeros(0, 784)}, "hidden_dim is 0"),
        ({"encoder.0.weight": torch.zeros(8)}, "lacks the matrices encoder.0.weight"),
        ({"mean_layer.bias": torch.full((3,), torch.nan)}, "not finite"),
        ({"mean_layer.bias": torch.zeros(3, device="meta")}, "dense tensor"),
        ({1: torch.zeros(1)}, "dense tensor"),
        ({"epoch": 3}, "dense tensor"),
    ],
)
def test_invalid_state_dict(tmp_path: Path, small: vae.VAE, change: dict[Any, Any], expected: str) -> None:
    assert expected in load_error(write_state_dict(tmp_path / "odd.pt", {**small.state_dict(), **change}))


def test_damaged_state_dict_is_never_loaded(tmp_path: Path, small: vae.VAE) -> None:
    content = torch_bytes(dict(small.state_dict()))
    path = tmp_path / "damaged.pt"
    for length in range(0, len(content), 1009):
        path.write_bytes(content[:length])
        load_error(path)
    pickled = content.index(b"\x80\x02")  # these make torch's unpickler fail in many ways
    for position in range(pickled, pickled + 400, 3):
        path.write_bytes(content[:position] + b"u" + content[position + 1 :])
        with suppress(vae.CheckpointError):  # some load: a byte of padding can change
            vae.load(path)
