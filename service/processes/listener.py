"""The socket that the service listens on."""

from __future__ import annotations

import socket

from service.settings import Settings, SettingsError


def bind(settings: Settings) -> socket.socket:
    """Bind a TCP socket to the host and port of `settings`; until it listens, connections are refused.

    Raises SettingsError if the address cannot be bound.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        raise SettingsError(
            f"The service cannot listen on {settings.address}: {reason}. Choose another --host or --port, or stop what "
            "listens there."
        ) from error
    return listener
