"""The data set and images that a checkpoint was trained on, and what follows for measuring it or training further."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from training.config.fit_config import FitConfig
from training.config.options import DATASETS
from training.data.dataset import DataError, Dataset
from training.data.split import UNKNOWN
from training.fitting.outputs import Outputs
from training.fitting.state import read_state


def describe_data(train: Dataset, validation_share: float) -> dict[str, Any]:
    """Return the checkpoint's `data` metadata: the fingerprint of the data set and how it was split."""
    return {**asdict(train.origin), "validation_share": validation_share}


def find_dataset(checkpoint: Path, training: Mapping[str, Any]) -> str:
    """Return the `--dataset` that `checkpoint` was trained on.

    Checkpoints are published, so they keep only the last part of a path; the training state beside one keeps it all.
    """
    name: str = training.get("dataset", "mnist")
    state = Outputs(checkpoint).state
    if name in DATASETS or "data" not in training or not state.exists():
        return name
    try:
        kept = read_state(state)
    except DataError:
        return name
    return str(kept["dataset"]) if kept["data"] == training["data"] else name


def name_dataset(dataset: Dataset, config: FitConfig) -> str:
    """Return the `--dataset` that stands for images passed from Python.

    Images in memory have the name of a .npy file, which is split like them; others are those of `config.dataset`.
    """
    return f"npy:{dataset.name}.npy" if dataset.origin == UNKNOWN else config.dataset


def training_images(train: Dataset, name: str, training: Mapping[str, Any]) -> Dataset:
    """Return those of `train`, all training images of the data set `name`, that a checkpoint was trained on.

    Returns all of them if it was trained on another data set or does not say.
    """
    data = training.get("data")
    if data is None:
        if name in DATASETS and is_called(name, training):  # older versions held out the last images
            return train.hold_out(max(0, len(train) - training.get("training_images", len(train))))[0]
        return train
    known = is_called(name, training) or data["fingerprint"] == train.origin.fingerprint
    return train.split(data["validation_share"])[0] if known else train


def find_doubts(name: str, data: Mapping[str, Any], training: Mapping[str, Any]) -> list[str]:
    """Explain why metrics on the data set `name`, split as in `data`, may be too good; one sentence per reason.

    `training` is the metadata of the checkpoint that is measured or trained further, and of those that it came from.
    """
    doubts = []
    then = training.get("data")
    if then is None and (name not in DATASETS or training.get("dataset") != name):
        doubts.append(
            "The checkpoint does not tell which images its weights were trained on: they may be among the test images "
            "of now, whose figures would be too good."
        )
    elif then is not None and any(then[each] != data[each] for each in ("fingerprint", "hashed", "test_share")):
        doubts.append(
            f"The weights were trained on {training.get('dataset')} with fingerprint {then['fingerprint']}; {name} has "
            f"{data['fingerprint']}. Unless pictures were only added or removed, test images of then may be training "
            "images now, and the other way round: test figures may be too good."
        )
    elif data["validation_share"] > (0 if then is None else then["validation_share"]):
        doubts.append(
            "The weights were trained on images that are held out for validation now, whose figures are too good."
        )
    earlier = (training.get("started_from") or {}).get("training")
    if earlier is not None:
        doubts += find_doubts(name, data, earlier)
    return list(dict.fromkeys(doubts))


def is_called(name: str, training: Mapping[str, Any]) -> bool:
    """Return whether the checkpoint was trained on a data set called `name`."""
    return bool(FitConfig(dataset=name).to_metadata()["dataset"] == training.get("dataset", "mnist"))
