"""Record a training with MLflow: pip install mlflow-skinny."""

from collections.abc import Mapping
from dataclasses import asdict

import mlflow

from training import FitConfig


class MLflowLogger:
    """A `training.Logger` that records a training as a run of MLflow's current experiment."""

    def start(self, config: FitConfig) -> None:
        """Start a run, with the options as its parameters."""
        mlflow.start_run()
        mlflow.log_params(asdict(config))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log the metrics of an epoch."""
        mlflow.log_metrics(dict(metrics), step)

    def finish(self, error: BaseException | None) -> None:
        """End the run."""
        mlflow.end_run("FAILED" if error else "FINISHED")
