"""vae-serve with a model that was read before: python -m tests.service.processes.preloaded FLAGS

Reading it takes a second of processor time in each start, mostly the import of torch; how a service starts to serve and
stops does not depend on it.
"""

from __future__ import annotations

import os
from multiprocessing.connection import Connection
from pathlib import Path
from unittest import mock

import service.__main__
from service.inference import loading

FILE = "PRELOADED_MODEL"
"""Environment variable: the path of a pickle of what `loading` receives from the process that reads a checkpoint."""
PROGRAM = ("-m", "tests.service.processes.preloaded")


def _send(checkpoint: Path, sender: Connection) -> None:
    sender.send_bytes(Path(os.environ[FILE]).read_bytes())


def main() -> None:
    """As `service.__main__.main`."""
    with mock.patch.object(loading, "_translate", _send):
        service.__main__.main()


if __name__ == "__main__":
    main()
