"""vae-serve: settings → server."""

from __future__ import annotations

import sys

from service.settings import SettingsError, read_settings


def main() -> None:
    """Serve until told to stop; exit status 2 where the service cannot start."""
    try:
        settings = read_settings(sys.argv[1:])
    except SettingsError as error:
        sys.exit(_complain(str(error)))
    from service.server import Server  # noqa: PLC0415 - torch takes seconds to import; a bad setting is told before
    from service.supervisor import Supervisor  # noqa: PLC0415 - as above

    sys.exit(Supervisor(settings).run() if settings.workers > 1 else Server(settings).serve_forever())


def _complain(sentence: str) -> int:
    print(f"vae-serve: {sentence}", file=sys.stderr)  # noqa: T201 - no log is set up yet
    return 2


if __name__ == "__main__":
    main()
