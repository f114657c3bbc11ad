"""vae-serve: settings → server."""

from __future__ import annotations

import os
import sys

from service.malloc import tune_gc
from service.processes.listener import bind
from service.settings import SettingsError, read_settings


def main() -> None:
    """Serve until a signal stops it; exit with status 2 if the service cannot start."""
    tune_gc()
    try:
        settings = read_settings(sys.argv[1:])
        listener = bind(settings)
    except SettingsError as error:
        sys.exit(_report(str(error)))
    # else NumPy starts a thread of its BLAS for each core while it is imported, which takes as long as all else of it
    os.environ.setdefault("OPENBLAS_NUM_THREADS", str(settings.torch_threads))
    settings = settings.model_copy(update={"port": listener.getsockname()[1]})
    if settings.workers > 1:
        from service.processes.supervisor import Supervisor  # noqa: PLC0415 - slow; invalid settings are reported first

        sys.exit(Supervisor(settings, listener).run())
    from service.processes.server import Server  # noqa: PLC0415 - as above

    sys.exit(Server(settings).serve_forever(listener))


def _report(error: str) -> int:
    print(f"vae-serve: {error}", file=sys.stderr)  # noqa: T201 - logging is not set up yet
    return 2


if __name__ == "__main__":
    main()
