"""Training, evaluation, plots, export and encoding of variational autoencoders.

Importing `training` does not import torch; the first use of a name below that needs torch does.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.config.fit_config import FitConfig
    from training.config.options import ConfigError
    from training.config.presets import PRESETS
    from training.data.dataset import DataError, Dataset
    from training.fitting.fit import FitResult, fit
    from training.fitting.logger import Logger
    from training.fitting.state import TrainingError

__all__ = ["PRESETS", "ConfigError", "DataError", "Dataset", "FitConfig", "FitResult", "Logger", "TrainingError", "fit"]

_MODULES = {
    "config.fit_config": ("FitConfig",),
    "config.options": ("ConfigError",),
    "config.presets": ("PRESETS",),
    "data.dataset": ("DataError", "Dataset"),
    "fitting.fit": ("FitResult", "fit"),
    "fitting.logger": ("Logger",),
    "fitting.state": ("TrainingError",),
}


def __getattr__(name: str) -> Any:
    """Import the module that defines `name` (PEP 562)."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"training.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
