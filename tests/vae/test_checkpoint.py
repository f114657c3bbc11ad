import errno
import hashlib
import io
import json
import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load as read_tensors
from safetensors.torch import save as serialize

import vae
from tests.vae.test_model import ARTICLE_SHAPES
from vae.checkpoint import FORMAT, FORMAT_VERSION

TRAINING = {"epochs": 10, "optimizer": {"name": "adam"}}
FIGURES = {"test_neg_elbo": 138.5}


@pytest.fixture
def path(tmp_path: Path, small: vae.VAE) -> Path:
    """A sound checkpoint of a tiny model."""
    path = tmp_path / "digits.safetensors"
    vae.save(path, small, training=TRAINING, metrics=FIGURES)
    return path


def refusal(path: Path) -> str:
    """What is said of the file at `path`: one sentence that names it."""
    with pytest.raises(vae.CheckpointError) as caught:
        vae.load(path)
    sentence = str(caught.value)
    assert str(path) in sentence
    assert sentence.endswith((".", "?"))
    assert "\n" not in sentence
    return sentence


def rewrite(path: Path, change: Callable[[dict[str, torch.Tensor], dict[str, str]], Any]) -> None:
    """Write the checkpoint at `path` anew, its tensors and metadata changed in place."""
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    tensors, metadata = read_tensors(content), header["__metadata__"]
    change(tensors, metadata)
    path.write_bytes(serialize(tensors, metadata))


def test_gives_back_what_was_saved(path: Path, small: vae.VAE) -> None:
    loaded = vae.load(path)
    assert loaded.name == "digits"
    assert loaded.model.config == small.config
    assert loaded.training == TRAINING
    assert loaded.metrics == FIGURES
    assert loaded.format_version == FORMAT_VERSION
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    state, saved = loaded.model.state_dict(), small.state_dict()
    assert state.keys() == saved.keys()
    assert all(torch.equal(state[name], saved[name]) for name in saved)


def test_model_is_ready_to_serve(path: Path) -> None:
    model = vae.load(path).model
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


def test_half_precision_is_read_as_float32(path: Path) -> None:
    rewrite(path, lambda tensors, _: tensors.update({n: t.bfloat16() for n, t in tensors.items()}))
    assert {parameter.dtype for parameter in vae.load(path).model.parameters()} == {torch.float32}


def test_saving_makes_its_folder_and_leaves_nothing_beside(tmp_path: Path, small: vae.VAE) -> None:
    path = tmp_path / "new" / "model.safetensors"
    for _ in range(2):
        vae.save(path, small, training={}, metrics={})
    assert list(path.parent.iterdir()) == [path]


def test_failed_save_leaves_the_old_file(path: Path, small: vae.VAE, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def full_disk(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        vae.save(path, small, training={"epochs": 99}, metrics={})
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_missing_file(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "none.safetensors")
    assert "Is a directory" in refusal(tmp_path)


def test_truncated_file_is_never_loaded(path: Path) -> None:
    content = path.read_bytes()
    for length in [*range(64), *range(64, len(content), 997), len(content) - 1]:
        path.write_bytes(content[:length])
        assert "not a whole safetensors file" in refusal(path)


def test_foreign_safetensors(path: Path) -> None:
    path.write_bytes(serialize({"weight": torch.zeros(2)}))
    assert f"format={FORMAT}" in refusal(path)
    rewritten = serialize(read_tensors(path.read_bytes()), {"format": "pt"})
    path.write_bytes(rewritten)
    assert f"format={FORMAT}" in refusal(path)


def test_version_of_the_future(path: Path) -> None:
    rewrite(path, lambda _, metadata: metadata.update(format_version="2"))
    assert "format version 2; this release reads version 1" in refusal(path)


@pytest.mark.parametrize(
    ("field", "text", "said"),
    [
        ("config", "{", "config is not JSON"),
        ("training", "[" * 100_000, "training is not JSON"),
        ("figures", "[]", "figures is not a JSON object"),
        ("config", "{}", "image_shape"),
        ("config", '{"image_shape": 28}', "configuration"),
        ("config", '{"image_shape": [1, 28, 28], "layers": 3}', "layers"),
        ("config", '{"image_shape": [1, 28, 28], "hidden_dim": "8"}', "hidden_dim is '8'"),
        ("config", '{"image_shape": [1, 28, 28], "hidden_dim": 9}', "(8,); (9,) is wanted"),
        ("config", '{"image_shape": [1, 28, 28], "hidden_dim": 100000000000000000}', "no memory"),
    ],
)
def test_metadata_that_describe_nothing(path: Path, field: str, text: str, said: str) -> None:
    rewrite(path, lambda _, metadata: metadata.update({field: text}))
    assert said in refusal(path)


def test_wrong_shape(path: Path) -> None:
    rewrite(path, lambda tensors, _: tensors.update({"mean_layer.bias": torch.zeros(4)}))
    assert "mean_layer.bias has the shape (4,); (3,) is wanted" in refusal(path)


def test_tensors_missing_and_too_many(path: Path) -> None:
    rewrite(path, lambda tensors, _: tensors.update(extra=torch.zeros(1)))
    assert "extra is no part" in refusal(path)
    rewrite(path, lambda tensors, _: (tensors.pop("extra"), tensors.pop("mean_layer.bias")))
    assert "mean_layer.bias is missing" in refusal(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite(path: Path, value: float) -> None:
    rewrite(path, lambda tensors, _: tensors["decoder.0.weight"][3, 1].fill_(value))
    assert "decoder.0.weight holds values that are not finite" in refusal(path)


def test_integers_are_no_weights(path: Path) -> None:
    rewrite(path, lambda tensors, _: tensors.update({"mean_layer.bias": torch.zeros(3, dtype=torch.int64)}))
    assert "mean_layer.bias" in refusal(path)


class Trap:
    """Unpickled, it would write a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.target, "sprung")


@pytest.mark.parametrize("name", ["trap.pt", "trap.pth", "trap.safetensors"])
@pytest.mark.parametrize("write", [pickle.dumps, lambda trap: torch_bytes({"encoder.0.weight": trap})])
def test_pickle_is_never_run(tmp_path: Path, name: str, write: Callable[[Trap], bytes]) -> None:
    content, target = write(Trap(tmp_path / "sprung")), tmp_path / "sprung"
    (tmp_path / name).write_bytes(content)
    refusal(tmp_path / name)
    assert not target.exists()
    torch.load(io.BytesIO(content), weights_only=False) if content[:2] == b"PK" else pickle.loads(content)
    assert target.exists()  # the trap is one


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
def test_state_dict_of_other_pictures(tmp_path: Path, pixels: int, shape: tuple[int, int, int]) -> None:
    config = vae.VAEConfig(image_shape=shape, hidden_dim=5, latent_dim=2)
    path = write_state_dict(tmp_path / "other.pt", dict(vae.VAE(config).state_dict()))
    assert vae.load(path).model.config == config


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"encoder.0.weight": torch.zeros(8, 10)}, "neither a square grey nor a square RGB"),
        ({"encoder.0.weight": torch.zeros(8, 0)}, "image_shape"),
        ({"encoder.0.weight": torch.zeros(0, 784)}, "hidden_dim is 0"),
        ({"encoder.0.weight": torch.zeros(8)}, "no matrices encoder.0.weight"),
        ({"mean_layer.bias": torch.full((3,), torch.nan)}, "not finite"),
        ({"mean_layer.bias": torch.zeros(3, device="meta")}, "dense tensor"),
        ({1: torch.zeros(1)}, "dense tensor"),
        ({"epoch": 3}, "dense tensor"),
    ],
)
def test_state_dict_that_is_none_of_ours(tmp_path: Path, small: vae.VAE, change: dict[Any, Any], said: str) -> None:
    assert said in refusal(write_state_dict(tmp_path / "odd.pt", {**small.state_dict(), **change}))


def test_damaged_state_dict_is_never_loaded(tmp_path: Path, small: vae.VAE) -> None:
    content = torch_bytes(dict(small.state_dict()))
    path = tmp_path / "damaged.pt"
    for length in range(0, len(content), 1009):
        path.write_bytes(content[:length])
        refusal(path)
    pickled = content.index(b"\x80\x02")  # torch's own unpickler trips over these in many ways
    for position in range(pickled, pickled + 400, 3):
        path.write_bytes(content[:position] + b"u" + content[position + 1 :])
        with suppress(vae.CheckpointError):  # or it loads: a byte of a padding is harmless
            vae.load(path)
