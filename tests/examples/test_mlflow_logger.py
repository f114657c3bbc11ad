"""The example of a logger records a training in MLflow's file store."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.live import ROOT
from training import Dataset, FitConfig, Logger, TrainingError, fit

pytestmark = pytest.mark.slow


@pytest.fixture
def mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow = pytest.importorskip("mlflow")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    mlflow.set_experiment("digits")
    yield mlflow
    mlflow.end_run()


def only_run(mlflow: Any) -> Any:
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    return run


@pytest.fixture
def logger(mlflow: Any) -> Logger:
    spec = importlib.util.spec_from_file_location("mlflow_logger", ROOT / "examples" / "mlflow_logger.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    example: Logger = module.MLflowLogger()
    return example


def test_a_training_is_a_run_with_options_and_metrics(mlflow: Any, logger: Logger, images: NDArray[np.uint8]) -> None:
    config = FitConfig(epochs=2, hidden_dim=8, warmup_steps=0, device="cpu", out=None)
    result = fit(config, Dataset.from_arrays(images), loggers=[logger])
    run = only_run(mlflow)
    assert run.info.status == "FINISHED"
    assert run.data.params["hidden_dim"] == "8"
    assert run.data.metrics["test_neg_elbo"] == result.metrics["test_neg_elbo"]
    losses = mlflow.MlflowClient().get_metric_history(run.info.run_id, "train_neg_elbo")
    assert [point.value for point in losses][:2] == [record["train_neg_elbo"] for record in result.history]


def test_a_training_that_fails_is_a_failed_run(mlflow: Any, logger: Logger, images: NDArray[np.uint8]) -> None:
    config = FitConfig(epochs=2, hidden_dim=8, learning_rate=1e20, warmup_steps=0, device="cpu", out=None)
    with pytest.raises(TrainingError, match="not finite"):
        fit(config, Dataset.from_arrays(images), loggers=[logger])
    assert only_run(mlflow).info.status == "FAILED"
