"""Models in folders and on the Hugging Face Hub, whose API is faked."""

import sys
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any
from unittest.mock import MagicMock, create_autospec

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, ModelCard, errors

import vae
from tests.live import ROOT
from vae import VAE, Calibration, CheckpointError, VAEConfig
from vae.hub import WEIGHTS

BUNDLED = ROOT / "weights" / "mnist.safetensors"


@pytest.fixture
def model() -> VAE:
    torch.manual_seed(0)
    return VAE(VAEConfig(hidden_dim=4))


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MagicMock:
    """HfApi with a folder per repository in place of the Hub; calls have to fit the signatures of the real one."""
    hub = tmp_path / "hub"
    fake: MagicMock = create_autospec(HfApi, instance=True)

    def create_repo(repo_id: str, **_: Any) -> Any:
        (hub / repo_id).mkdir(parents=True, exist_ok=True)
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def upload_folder(*, repo_id: str, folder_path: str, ignore_patterns: str | None, **_: Any) -> str:
        ignored = {ignore_patterns or ""}
        copytree(folder_path, hub / repo_id, dirs_exist_ok=True, ignore=lambda _, names: ignored.intersection(names))
        return f"https://huggingface.co/{repo_id}/commit/1"

    def download(repo_id: str, filename: str, **_: Any) -> str:
        path = hub / repo_id / filename
        if not path.exists():
            raise errors.LocalEntryNotFoundError(f"Cannot find {repo_id}.\nMore about it.")
        return str(path)

    fake.create_repo.side_effect = create_repo
    fake.upload_folder.side_effect = upload_folder
    fake.hf_hub_download.side_effect = download
    fake.file_exists.side_effect = lambda repo_id, name, **_: (hub / repo_id / name).exists()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda token: fake)
    return fake


def equal(one: VAE, other: VAE) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return one.config == other.config and all(torch.equal(theirs[name], each) for name, each in ours.items())


def test_a_file_is_loaded_with_its_metadata_in_evaluation_mode() -> None:
    model = VAE.from_pretrained(BUNDLED)
    assert equal(model, vae.load(BUNDLED).model)
    assert not model.training
    assert model.metadata
    assert model.metadata.metrics == vae.load(BUNDLED).metrics


def test_a_folder_is_a_checkpoint_and_a_card(tmp_path: Path) -> None:
    model = VAE.from_pretrained(str(BUNDLED))
    model.save_pretrained(tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "README.md"}
    before, after = vae.load(BUNDLED), vae.load(folder / WEIGHTS)
    assert (after.training, after.metrics) == (before.training, before.metrics)
    for source in (folder, str(folder)):
        assert equal(VAE.from_pretrained(source), model)
    data: Any = ModelCard((folder / "README.md").read_text()).data
    assert data.datasets == ["ylecun/mnist"]
    assert {result.metric_type for result in data.eval_results} >= {"test_neg_elbo"}


def test_a_new_model_has_a_card_without_metrics(model: VAE, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    data: Any = ModelCard((tmp_path / "README.md").read_text()).data
    assert data.library_name == "vae-service"
    assert data.eval_results is None
    assert vae.load(tmp_path / WEIGHTS).training == {}


def test_the_card_of_a_folder_is_replaced_only_by_one_that_is_given(model: VAE, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# Mine\n")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "# Mine\n"
    model.save_pretrained(tmp_path, card="# Another\n")
    assert (tmp_path / "README.md").read_text() == "# Another\n"


def test_a_pushed_model_is_loaded_by_its_id(model: VAE, api: MagicMock) -> None:
    assert model.push_to_hub("me/vae", private=True) == "https://huggingface.co/me/vae/commit/1"
    assert api.create_repo.call_args.kwargs["private"] is True
    loaded = VAE.from_pretrained("me/vae", revision="main", local_files_only=True)
    assert equal(loaded, model)
    options = api.hf_hub_download.call_args.kwargs
    assert (options["revision"], options["local_files_only"]) == ("main", True)


def test_the_card_of_a_repository_is_replaced_only_by_one_that_is_given(
    model: VAE, api: MagicMock, tmp_path: Path
) -> None:
    card = tmp_path / "hub" / "me" / "vae" / "README.md"
    model.push_to_hub("me/vae", card="# Mine\n")
    assert card.read_text() == "# Mine\n"
    model.push_to_hub("me/vae")
    assert card.read_text() == "# Mine\n"


@pytest.mark.parametrize("source", ["me/nothing", "nothing"])
def test_a_repository_that_is_not_there_is_an_error(source: str, api: MagicMock) -> None:
    with pytest.raises(CheckpointError) as raised:
        VAE.from_pretrained(source)
    assert str(raised.value) == (
        f"{source} is no file or folder here, and cannot be loaded from the Hugging Face Hub: Cannot find {source}."
    )


@pytest.mark.parametrize("source", ["me/vae.safetensors", "vae.pt", Path("me/vae")])
def test_a_path_that_is_not_there_is_not_asked_of_the_hub(source: str | Path, api: MagicMock) -> None:
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        VAE.from_pretrained(source)
    api.hf_hub_download.assert_not_called()


def test_a_name_that_is_none_of_a_repository_is_an_error() -> None:
    with pytest.raises(CheckpointError, match="is no file or folder here"):
        VAE.from_pretrained("a/b/c")


def test_errors_of_the_hub_are_os_errors() -> None:
    raised = errors.HfHubHTTPError, errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled
    assert all(issubclass(error, OSError) for error in raised)
    assert issubclass(errors.HFValidationError, ValueError)


def test_without_huggingface_hub_the_error_names_the_extra(model: VAE, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (lambda: VAE.from_pretrained("me/vae"), lambda: model.push_to_hub("me/vae")):
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'vae-service\[hub\]'"):
            call()


def test_folders_need_no_huggingface_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    VAE.from_pretrained(BUNDLED).save_pretrained(tmp_path)
    assert equal(VAE.from_pretrained(tmp_path), vae.load(BUNDLED).model)


def test_metadata_that_was_set_to_none_is_not_written(tmp_path: Path) -> None:
    model = VAE.from_pretrained(BUNDLED)
    assert model.metadata
    model.metadata = replace(model.metadata, metrics={})
    model.save_pretrained(tmp_path / "a")
    assert vae.load(tmp_path / "a" / WEIGHTS).metrics == {}
    model.metadata = None
    model.save_pretrained(tmp_path / "b")
    assert vae.load(tmp_path / "b" / WEIGHTS).training == {}


def test_the_calibration_of_a_checkpoint_is_kept(model: VAE, tmp_path: Path) -> None:
    scores = np.linspace(0.5, 2, 20, dtype=np.float32)
    calibration = Calibration.of(scores, scores, "outlier_factor", draws=2, samples=0, seed=0)
    references = vae.References.of(np.random.default_rng(0).random((12, model.config.latent_dim), np.float32))
    path = tmp_path / "of.safetensors"
    vae.save(path, model, training={}, metrics={}, calibration=calibration, references=references)
    VAE.from_pretrained(path).save_pretrained(tmp_path)
    saved = vae.load(tmp_path / WEIGHTS)
    assert saved.calibration == calibration
    assert saved.references is not None
    np.testing.assert_array_equal(saved.references.mean, references.mean)
