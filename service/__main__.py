"""vae-serve: settings → server."""

from __future__ import annotations

import sys

from service.processes.listener import bind
from service.settings import SettingsError, read_settings


def main() -> None:
    """Serve until told to stop; exit status 2 where the service cannot start."""
    try:
        settings = read_settings(sys.argv[1:])
        listener = bind(settings)
    except SettingsError as error:
        sys.exit(_complain(str(error)))
    settings = settings.model_copy(update={"port": listener.getsockname()[1]})
    if settings.workers > 1:
        from service.processes.supervisor import Supervisor  # noqa: PLC0415 - a bad setting is told before

        sys.exit(Supervisor(settings, listener).run())
    from service.inference.loading import begin_to_load  # noqa: PLC0415 - as above

    load = begin_to_load(settings)
    from service.processes.server import Server  # noqa: PLC0415 - while the checkpoint is being read

    sys.exit(Server(settings, load).serve_forever(listener))


def _complain(sentence: str) -> int:
    print(f"vae-serve: {sentence}", file=sys.stderr)  # noqa: T201 - no log is set up yet
    return 2


if __name__ == "__main__":
    main()
