"""What a logger is told, and TensorBoard's logs."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training import FitConfig, fit
from training.fitting import loop

pytestmark = pytest.mark.slow


class Recorder:
    def __init__(self) -> None:
        self.calls: list[object] = []
        self.metrics: dict[int, dict[str, float]] = {}

    def start(self, config: FitConfig) -> None:
        self.calls.append(config)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.calls.append(step)
        self.metrics[step] = self.metrics.get(step, {}) | dict(metrics)

    def finish(self, error: BaseException | None) -> None:
        self.calls.append(error)


@pytest.fixture
def config(data_dir: Path) -> FitConfig:
    small = FitConfig(epochs=2, hidden_dim=8, hidden_layers=2, warmup_steps=0, device="cpu")
    return replace(small, data_dir=data_dir, out=None)


def test_a_logger_gets_the_options_each_epoch_and_the_final_metrics(config: FitConfig) -> None:
    recorder = Recorder()
    result = fit(config, loggers=[recorder])
    assert recorder.calls == [config, 1, 2, 2, None]
    first = dict(result.history[0])
    assert first.pop("epoch") == 1
    assert recorder.metrics[1] == first
    assert recorder.metrics[2]["test_neg_elbo"] == result.metrics["test_neg_elbo"]
    assert recorder.metrics[2]["train_kl_divergence"] == result.metrics["train_kl_divergence"]


def test_a_logger_is_told_what_ended_the_training(config: FitConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    recorders = Recorder(), Recorder()
    step = loop.train_step

    def interrupted(*arguments: object, **options: object) -> None:
        if recorders[0].metrics:
            raise KeyboardInterrupt
        step(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(config, loggers=recorders)
    for recorder in recorders:
        assert recorder.calls[:2] == [config, 1]
        assert isinstance(recorder.calls[2], KeyboardInterrupt)
        assert len(recorder.calls) == 3


def test_tensorboard_has_the_scalars_of_every_epoch_and_the_end(config: FitConfig, tmp_path: Path) -> None:
    result = fit(replace(config, tensorboard=True, out=tmp_path / "a.safetensors"))
    accumulator = EventAccumulator(str(tmp_path / "a.tensorboard")).Reload()
    scalars = {name: accumulator.Scalars(name) for name in accumulator.Tags()["scalars"]}
    assert [event.step for event in scalars["validation/neg_elbo"]] == [1, 2]
    assert scalars["test/neg_elbo"][0].value == pytest.approx(result.metrics["test_neg_elbo"])
    assert {"seconds", "learning/rate", "train/kl_divergence"} <= scalars.keys()
