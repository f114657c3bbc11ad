"""Models in folders and on the Hugging Face Hub, with the method names of huggingface_hub's ModelHubMixin.

The mixin itself is a base class, which would make every import of the model import huggingface_hub; and it keeps the
configuration in a `config.json`, where a checkpoint describes itself. Only reading from the Hub and writing to it
import huggingface_hub.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from vae.arrays import STATE_DICTS
from vae.checkpoint import load, save
from vae.files import write_atomically
from vae.metadata import CheckpointError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from vae.model import VAE

WEIGHTS, CARD = "model.safetensors", "README.md"
"""Files of a folder: the checkpoint, and the model card."""
TASK = "unconditional-image-generation"
"""The Hub's name for what a VAE does."""
DATASETS = {
    "mnist": "ylecun/mnist",
    "fashion-mnist": "zalando-datasets/fashion_mnist",
    "cifar10": "uoft-cs/cifar10",
}
"""Data sets of `vae-train` → their ids on the Hub."""
METRICS = {
    "test_neg_elbo": "−ELBO, nats per image",
    "test_reconstruction_loss": "reconstruction loss, nats per image",
    "test_kl_divergence": "KL divergence, nats per image",
    "test_neg_importance_weighted_bound": "−log p(x), upper bound, nats per image",
    "test_squared_error": "mean squared error per pixel",
}
"""Metrics of a checkpoint that its card reports to the Hub → their names there."""


def from_pretrained(
    path_or_repo: str | Path,
    device: str,
    revision: str | None,
    token: str | bool | None,
    cache_dir: str | Path | None,
    *,
    local_files_only: bool,
) -> VAE:
    """Load a model; see `VAE.from_pretrained`."""
    path = Path(path_or_repo)
    if path.is_dir():
        path /= WEIGHTS
    elif isinstance(path_or_repo, str) and not path.exists() and path.suffix not in (".safetensors", *STATE_DICTS):
        try:
            path = Path(
                _api(token).hf_hub_download(
                    path_or_repo, WEIGHTS, revision=revision, cache_dir=cache_dir, local_files_only=local_files_only
                )
            )
        except (OSError, ValueError) as error:  # errors of the Hub are OSErrors; ValueError: no name of a repository
            reason = str(error).strip().partition("\n")[0].rstrip(".")
            raise CheckpointError(
                f"{path_or_repo} is no file or folder here, and cannot be loaded from the Hugging Face Hub: {reason}."
            ) from error
    return load(path, device).model


def save_pretrained(model: VAE, folder: Path, card: str | None) -> None:
    """Write a model to `folder`; see `VAE.save_pretrained`."""
    about = model.metadata
    if about:
        save(
            folder / WEIGHTS,
            model,
            training=about.training,
            metrics=about.metrics,
            calibration=about.calibration,
            references=about.references,
        )
    else:
        save(folder / WEIGHTS, model, training={}, metrics={})
    if card is None and not (folder / CARD).exists():
        card = _card(model)
    if card is not None:
        write_atomically(folder / CARD, card.encode())


def push_to_hub(
    model: VAE, repo_id: str, card: str | None, message: str, token: str | None, revision: str | None, *, private: bool
) -> str:
    """Upload a model; see `VAE.push_to_hub`."""
    api = _api(token)
    repo = api.create_repo(repo_id, private=private or None, exist_ok=True).repo_id
    keep_card = card is None and api.file_exists(repo, CARD, revision=revision)
    with TemporaryDirectory() as folder:
        save_pretrained(model, Path(folder), card)
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            commit_message=message,
            revision=revision,
            ignore_patterns=CARD if keep_card else None,
        )
    return str(commit)


def card_metadata(name: str, training: Mapping[str, Any], metrics: Mapping[str, float]) -> dict[str, Any]:
    """Return the metadata with which a model card begins, as the Hub reads it.

    Args:
        name: Name of the model.
        training: A checkpoint's `training` metadata.
        metrics: Its metrics; those of METRICS are reported.

    Returns:
        A dict that is written as YAML between two lines of `---`. The license is unknown: it is for the author to say.

    """
    dataset = training.get("dataset")
    data: dict[str, Any] = {
        "license": "unknown",
        "library_name": "vae-service",
        "pipeline_tag": TASK,
        "tags": ["vae", "variational-autoencoder"],
    }
    if dataset in DATASETS:
        data["datasets"] = [DATASETS[dataset]]
    found = {key: round(metrics[key], 6) for key in METRICS if key in metrics}
    if dataset and found:
        data["metrics"] = list(found)
        data["model-index"] = [
            {
                "name": name,
                "results": [
                    {
                        "task": {"type": TASK},
                        "dataset": {"type": DATASETS.get(dataset, dataset), "name": dataset, "split": "test"},
                        "metrics": [
                            {"type": key, "name": METRICS[key], "value": value} for key, value in found.items()
                        ],
                    }
                ],
            }
        ]
    return data


def as_front_matter(metadata: Mapping[str, Any], comment: str = "") -> str:
    """Write the metadata of a card as the YAML block with which its file begins; `comment` is its first line."""
    import yaml  # noqa: PLC0415 - of the extras `hub` and `training`

    first = f"# {comment}\n" if comment else ""
    return f"---\n{first}{yaml.safe_dump(dict(metadata), sort_keys=False, allow_unicode=True)}---\n"


def _card(model: VAE) -> str:
    about, config = model.metadata, model.config
    name, training, metrics = (about.name, about.training, about.metrics) if about else ("vae", {}, {})
    shape = "×".join(map(str, config.image_shape))
    return f"""{as_front_matter(card_metadata(name, training, metrics))}
# {name}

A variational autoencoder ({config.architecture}) of images of {shape} in {config.latent_dim} latent dimensions:

```python
from vae import VAE

model = VAE.from_pretrained("…")  # this repository, or a folder with its files
images = model.sample(16)
```
"""


def _api(token: str | bool | None) -> HfApi:
    try:
        from huggingface_hub import HfApi  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "The Hugging Face Hub needs huggingface_hub, which is not installed: pip install 'vae-service[hub]'.",
            name=error.name,
        ) from error
    return HfApi(token=token)
