"""Creation of a ModelContext: what answers the requests for one version of a model."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import orjson

from service.api.context import ModelContext
from service.api.etags import model_digest
from service.inference.engine import Engine
from service.inference.loading import LoadedModel
from service.models.catalogue import Entry
from service.models.loader import load_entry
from service.settings import Settings
from service.telemetry.counters import CountersByModel
from service.telemetry.timing import Timing
from service.version import VERSION
from vae.calibration import Calibration
from vae.config import VAEConfig
from vae.diffusion.config import DiffusionConfig

logger = logging.getLogger("vae-service")


@dataclass(frozen=True)
class Creator:
    """Creates contexts, in any thread."""

    settings: Settings
    counters: CountersByModel
    on_batch: Callable[[str, Sequence[Timing], float, int], None] | None

    def __call__(self, entry: Entry, loaded: LoadedModel | None) -> ModelContext:
        """Create the context of `entry`, whose model is loaded and warmed up unless it is given.

        Raises StartError.
        """
        settings = self.settings
        if loaded is None:
            loaded = load_entry(settings, entry)
            loaded.backend.begin_thread()
            if loaded.backend.memory is None:  # else its measurement was the first call
                loaded.backend.encode(np.zeros((1, *loaded.backend.config.image_shape), np.float32))
        metadata, latents = loaded.checkpoint.metadata, loaded.checkpoint.latents
        counters = self.counters[entry.key]
        engine = Engine(
            loaded.backend,
            micro_batch_limit=settings.micro_batch_limit,
            deadline=settings.request_deadline,
            threaded={"inline": False, "thread": True, "auto": None}[settings.compute],
            counters=counters,
            on_batch=self.on_batch,
            clock=time.thread_time if settings.device == "cpu" else time.perf_counter,
        )
        model_json = _model_json(entry, loaded)
        latents_json = orjson.dumps(latents, option=orjson.OPT_SERIALIZE_NUMPY) if latents else None
        logger.info("Metrics of the model %s: %s", entry, orjson.dumps(metadata.metrics).decode())
        return ModelContext(
            entry.name,
            entry.version,
            metadata.sha256,
            engine,
            metadata.fit,
            replace(settings.limits, batch=entry.options.batch_limit or settings.batch_limit),
            metadata.calibration,
            metadata.references,
            model_json,
            latents,
            latents_json,
            counters,
            _model_info(entry, loaded),
            model_digest(model_json, latents_json),
        )


def _model_json(entry: Entry, loaded: LoadedModel) -> bytes:
    metadata, config = loaded.checkpoint.metadata, loaded.backend.config
    return orjson.dumps(
        {
            "name": entry.name,
            **{name: getattr(config, name) for name in ("architecture", "likelihood", "image_shape", "latent_shape")},
            **_diffusion(config),
            "dtype": config.dtype,
            "latent_dim": config.latent_shape[0] if len(config.latent_shape) == 1 else None,
            "parameters": loaded.checkpoint.parameters,
            **{name: getattr(metadata, name) for name in ("sha256", "format_version", "training")},
            "figures": metadata.metrics,
            "calibration": _calibration(metadata.calibration),
        }
    )


def _diffusion(config: VAEConfig | DiffusionConfig) -> dict[str, object]:
    """The fields that only autoencoders of diffusion models have; the others' are null."""
    if not isinstance(config, DiffusionConfig):
        return dict.fromkeys(("stride", "temporal_stride", "frame_rate", "normalisation"))
    normalisation, channels = config.normalisation, config.latent_shape[0] * config.normalisation.patch_size**2
    mean, scale = (
        np.broadcast_to(values, (channels,)).tolist() for values in (normalisation.mean, normalisation.scale)
    )
    return {
        "stride": config.stride,
        "temporal_stride": config.temporal_stride,
        "frame_rate": config.frame_rate if config.is_video else None,
        "normalisation": {"mean": mean, "scale": scale, "patch_size": normalisation.patch_size},
    }


def _calibration(calibration: Calibration | None) -> dict[str, object] | None:
    """How percentiles are computed, without the quantiles."""
    if calibration is None:
        return None
    return {
        name: getattr(calibration, name) for name in ("score", "draws", "samples", "seed", "images", "highest_loss")
    }


def _model_info(entry: Entry, loaded: LoadedModel) -> dict[str, str]:
    config = loaded.backend.config
    return {
        "model": entry.name,
        "version": entry.version,
        "architecture": config.architecture,
        "image_shape": "×".join(map(str, config.image_shape)),
        "latent_dim": "×".join(map(str, config.latent_shape)),
        "sha256": loaded.checkpoint.metadata.sha256,
        "service_version": VERSION,
    }
