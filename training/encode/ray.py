"""Encode shards on a Ray cluster: a Ray Data set of shards, mapped by as many actors as the cluster holds."""

from __future__ import annotations

import logging
import platform
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from training.config.options import ConfigError
from training.data.dataset import DataError
from training.encode.rows import Shard, read_groups
from training.encode.shards import Encoding


def run_on_ray(encoding: Encoding, shards: Sequence[Shard], address: str) -> Iterator[int]:
    """Encode and write `shards` on the cluster at `address`; yield the number of rows of each read group.

    The shards of a machine that is lost are encoded again on another. Raises ConfigError or DataError.
    """
    try:
        import ray  # noqa: PLC0415 - only this needs it
        import ray.data  # noqa: PLC0415
    except ModuleNotFoundError:
        raise ConfigError("--ray needs Ray: pip install 'vae-service[training,ray]'.") from None
    try:
        _check_reachable(address)
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ConfigError(f"--ray {address} cannot be reached: {reason}. Start it: ray start --head.") from error
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        gpus = 1 if encoding.device != "cpu" and ray.cluster_resources().get("GPU") else 0
        items = [{"shards": together} for together in read_groups(shards)]
        encoded = ray.data.from_items(items, override_num_blocks=len(items)).map(
            ShardEncoder,
            fn_constructor_args=(ray.put(encoding),),
            compute=ray.data.ActorPoolStrategy(min_size=1),
            num_cpus=1,
            num_gpus=gpus,
        )
        for row in encoded.iter_rows():
            if row["error"]:
                raise DataError(row["error"])
            yield row["rows"]
    finally:
        ray.shutdown()


class ShardEncoder:
    """An actor that encodes read groups."""

    def __init__(self, encoding: Any) -> None:
        """`encoding` is a Ray object reference to an Encoding."""
        import ray  # noqa: PLC0415 - only this needs it

        self.encoding: Encoding = ray.get(encoding)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Encode a read group; return its number of rows and an error message (exceptions would carry stacks)."""
        shards = [Shard(*map(int, shard)) for shard in row["shards"]]
        try:
            _check_shared(self.encoding.source.path, self.encoding.out)
            return {"rows": sum(self.encoding.run(shards, readers=0)), "error": ""}
        except (ConfigError, DataError) as error:
            return {"rows": 0, "error": str(error)}


def _check_reachable(address: str) -> None:
    """Raise OSError if `address`, HOST:PORT, refuses connections; Ray itself would retry for minutes."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    if host:
        socket.create_connection((host, int(port)), timeout=10).close()


def _check_shared(*paths: Path) -> None:
    for path in paths:
        if not path.exists():
            raise DataError(
                f"{path} is not seen on {platform.node()}, which belongs to the cluster: input and output must lie "
                "where all its machines see them."
            )
