"""Which data set a checkpoint was trained on, which of its images, and what that means for another training on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from training.config import DATASETS, FitConfig
from training.data.dataset import DataError, Dataset
from training.fitting.outputs import Outputs
from training.fitting.state import read_state


def describe_data(train: Dataset, validation_share: float) -> dict[str, Any]:
    """What the checkpoint keeps under `data`: the fingerprint of the data set, and how it was split."""
    return {**asdict(train.origin), "validation_share": validation_share}


def find_dataset(checkpoint: Path, training: Mapping[str, Any]) -> str:
    """The `--dataset` that `checkpoint` was trained on.

    A checkpoint, which is made to be published, has only the last part of a path; the training's state beside it has
    all of it.
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


def training_images(train: Dataset, name: str, training: Mapping[str, Any]) -> Dataset:
    """The images that a checkpoint was trained on, of `train`, all training images of the data set `name`.

    All of them where it was trained on another data set, or does not tell.
    """
    data = training.get("data")
    if data is None:
        if name in DATASETS and is_called(name, training):  # an older version held out the last images
            return train.hold_out(max(0, len(train) - training.get("training_images", len(train))))[0]
        return train
    known = is_called(name, training) or data["fingerprint"] == train.origin.fingerprint
    return train.split(data["validation_share"])[0] if known else train


def find_doubts(name: str, data: Mapping[str, Any], training: Mapping[str, Any]) -> list[str]:
    """Why figures on the data set `name`, split as `data` tells, may be too good, in sentences.

    `training` is that of the checkpoint whose weights are measured or trained further; it tells of those before it.
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
    """Was the checkpoint trained on a data set with the name of `name`?"""
    return bool(FitConfig(dataset=name).to_metadata()["dataset"] == training.get("dataset", "mnist"))
