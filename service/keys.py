"""Who may call: API keys, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path

from service.errors import Unauthorized


class Keyring:
    """The keys that open the service; with none, it is open to all."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key.encode()) for key in keys]

    def __len__(self) -> int:
        return len(self._digests)

    def identify(self, authorization: str, api_key: str) -> bytes:
        """A name for the caller's key (its digest), from the header fields `authorization` and `x-api-key`.

        Raises Unauthorized where a key is wanted and not given.
        """
        if not self._digests:
            return b""
        scheme, _, token = authorization.partition(" ")
        key = token.strip() if scheme.lower() == "bearer" else api_key
        digest = _digest(key.encode("latin-1"))  # the bytes that came
        matches = [hmac.compare_digest(digest, known) for known in self._digests]  # all of them: no early way out
        if not any(matches):
            given = "The API key is not one of this service's." if key else "This service asks for an API key."
            raise Unauthorized(
                f"{given} Send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'.",
                headers={"WWW-Authenticate": 'Bearer realm="vae-service"'},
            )
        return digest


def read_keys(path: Path) -> tuple[str, ...]:
    """The keys in a file, one a line, without blank lines and comments; raises ValueError where there are none."""
    name = str(path).encode(errors="replace").decode()  # a byte of it that is no UTF-8 cannot be shown
    try:
        lines = path.read_text("utf-8", "surrogateescape").splitlines()
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror}") from error
    keys = tuple(key for line in lines if (key := line.strip()) and not key.startswith("#"))
    if not keys:
        raise ValueError(f"{name} has no key in it")
    return keys


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
