"""Convert a checkpoint to one that is served without torch."""

from pathlib import Path

from vae import LatentSet, load, save


def convert(source: Path, target: Path) -> None:
    """Write the checkpoint `source`, the article's .pt or a checkpoint of any release, as one of this release.

    The new file has probes, and the latents of the old one, if there are any, lie beside it. It may replace the old.

    Raises:
        CheckpointError: `source` cannot be loaded.
        OSError: `target` cannot be written.

    """
    checkpoint = load(source)
    latents = LatentSet.load(source, checkpoint.sha256)
    save(
        target,
        checkpoint.model,
        training=checkpoint.training,
        metrics=checkpoint.metrics,
        calibration=checkpoint.calibration,
        references=checkpoint.references,
    )
    if latents:
        latents.save(target, load(target).sha256)
