"""Where the metrics of a training go beside its history file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from training.config.fit_config import FitConfig


class Logger(Protocol):
    """Records one training, in the main process: `start`, any number of `log`, `finish`."""

    def start(self, config: FitConfig) -> None:
        """Begin the record of a training, new or continued, with these options."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record metrics after epoch `step`.

        After each epoch: `seconds` since the start of the training, `learning_rate`, and `train_…` and `validation_…`
        of `neg_elbo`, `reconstruction_loss` and `kl_divergence`, in nats per image. At the end: those of
        `training.metrics.summary.measure`.
        """

    def finish(self, error: BaseException | None) -> None:
        """End the record; `error` is what ended the training before its last epoch, such as KeyboardInterrupt."""


@contextmanager
def started(logger: Logger, config: FitConfig) -> Iterator[None]:
    """Start `logger`, and finish it with the body."""
    logger.start(config)
    try:
        yield
    except BaseException as error:
        logger.finish(error)
        raise
    logger.finish(None)
