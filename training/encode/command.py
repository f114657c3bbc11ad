"""Write latents and losses of any number of images to Parquet files; an interrupted run continues."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
from tqdm import tqdm

from training.config.options import ConfigError
from training.data.dataset import DataError
from training.encode.inputs import open_input
from training.encode.rows import Shard
from training.encode.scoring import Scoring
from training.encode.shards import Encoding
from vae import Checkpoint
from vae.calibration import LEVEL
from vae.files import name_in_errors
from vae.noise import DRAWS, SEED, SEED_LIMIT

RUN = "encoding.json"
"""File in the output folder that records the input and the checkpoint."""


def encode(
    checkpoint: Checkpoint,
    path: Path,
    out: Path,
    batch_size: int,
    device: str,
    ray: str | None,
    *,
    draws: int | None = None,
    samples: int = 0,
    seed: int = SEED,
    level: float = LEVEL,
) -> None:
    """Encode the images at `path` into part-*.parquet in `out`, and the errors of others into errors-*.parquet.

    Shards that `out` already holds are not encoded again.

    Args:
        checkpoint: The model.
        path: A folder of pictures, a .npy file, or a .parquet file or a folder of them.
        out: Output folder.
        batch_size: Images read and encoded at a time.
        device: As of `vae-train fit`.
        ray: Address of a Ray cluster; None encodes in this process.
        draws: Posterior samples per image for the column `elbo`; None leaves that column out without `samples`.
        samples: Importance samples per image for the column `importance_weighted_bound`; 0 leaves that column out.
        seed: Seed of the noise of these samples.
        level: Percentile of the calibrated score, 0 to 1, above which an image is anomalous.

    Raises:
        ConfigError: An option cannot be used, or `out` belongs to another run.
        DataError: The input cannot be read, or the output not written.

    """
    _check(batch_size, draws, seed, level)
    draws = DRAWS if samples and draws is None else draws
    scoring = Scoring(draws, samples, seed, checkpoint.calibration, level, checkpoint.references)
    path, out = path.absolute(), out.absolute()  # workers on other machines have other working directories
    if out.resolve().is_relative_to(path.resolve()):
        raise ConfigError(f"--out {out} lies in {path}, which is read: give a folder that does not.")
    source = open_input(path, checkpoint.model.config.image_shape, checkpoint.fit)
    about = {
        "input": str(path),
        "fingerprint": source.fingerprint,
        "checkpoint": checkpoint.name,
        "sha256": checkpoint.sha256,
    }
    if options := scoring.options:
        about["options"] = options
    encoding = Encoding(source, checkpoint.model, out, batch_size, device, scoring)
    with _lock_output(out, about):
        shards = [shard for shard in source.shards if not (out / f"part-{shard.number:05}.parquet").exists()]
        total, left = (sum(shard.stop - shard.start for shard in some) for some in (source.shards, shards))
        if left < total:
            print(f"Continuing after {total - left:,} images.", flush=True)
        try:
            with tqdm(total=total, initial=total - left, desc="encoding", unit=" images", unit_scale=True) as bar:
                for rows in _run(encoding, shards, ray):
                    bar.update(rows)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("Interrupted: complete parts are kept. The same command continues.") from None
    failed = sum(pq.read_metadata(file).num_rows for file in out.glob("errors-*.parquet"))
    errors = f"; {failed:,} could not be read, {out}/errors-*.parquet say why" if failed else ""
    if failed == total > 0:
        raise DataError(f"None of the {total:,} images could be read: {out}/errors-*.parquet say why.")
    print(f"Encoded {total - failed:,} images into {out}/part-*.parquet{errors}.")


def _check(batch_size: int, draws: int | None, seed: int, level: float) -> None:
    if batch_size < 1:
        raise ConfigError(f"--batch-size is {batch_size}; it must be 1 or more.")
    if draws is not None and draws < 2:
        raise ConfigError(f"--draws is {draws}; it must be 2 or more, for a standard error.")
    if not 0 <= seed < SEED_LIMIT:
        raise ConfigError(f"--seed is {seed}; it must be from 0 to 2**64 - 1.")
    if not 0 <= level <= 1:
        raise ConfigError(f"--level is {level}; it must be from 0 to 1.")


def _run(encoding: Encoding, shards: Sequence[Shard], ray: str | None) -> Iterator[int]:
    if not shards:
        return iter(())
    if ray is None:
        return encoding.run(shards, readers=0 if encoding.source.is_decoded else os.cpu_count() or 1)
    from training.encode.ray import run_on_ray  # noqa: PLC0415 - ray is in an extra of its own

    return run_on_ray(encoding, shards, ray)


@contextmanager
def _lock_output(out: Path, about: dict[str, str]) -> Iterator[None]:
    """Create and lock `out` for the run that `about` describes; raises ConfigError if it belongs to another run."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file; give a folder.")
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()) and not (out / RUN).exists():
        raise ConfigError(f"--out {out} holds something else than encodings: give a new folder.")
    with (out / RUN).open("a+") as run:
        try:
            fcntl.lockf(run, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until the file is closed or the process ends
        except BlockingIOError:
            raise ConfigError(
                f"--out {out} is being written by another run: wait for it, or give another folder."
            ) from None
        run.seek(0)
        if before := run.read():
            _compare(out, before, about)
        else:
            with name_in_errors(out / RUN):
                os.write(
                    run.fileno(), json.dumps(about, indent=1).encode()
                )  # unbuffered, so that a full disk raises here
                os.fsync(run.fileno())
        for cut_off in out.glob(".*.parquet.*"):
            cut_off.unlink()
        yield


def _compare(out: Path, written: str, about: dict[str, str]) -> None:
    try:
        before = json.loads(written)
    except ValueError:
        raise ConfigError(f"--out {out} holds something else than encodings: give a new folder.") from None
    if before["sha256"] != about["sha256"]:
        raise ConfigError(
            f"--out {out} holds what another checkpoint, {before['checkpoint']}, made of {before['input']}: give "
            "another folder, or that checkpoint."
        )
    if "draws" in before:
        raise ConfigError(
            f"--out {out} was begun with --draws by an earlier release, whose samples were others: give another folder."
        )
    if before.get("options") != about.get("options"):
        has = before.get("options", "no --draws")
        raise ConfigError(f"--out {out} was begun with {has}: give the same, or another folder.")
    if before["fingerprint"] != about["fingerprint"]:
        raise ConfigError(
            f"--out {out} holds encodings of {before['input']} as it was then, which {about['input']} is not now: give "
            "another folder."
        )
