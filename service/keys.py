"""API keys, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path

from service.errors import Unauthorized


class Keyring:
    """The API keys of the service; without keys, anyone may use it."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key.encode()) for key in keys]

    def __len__(self) -> int:
        return len(self._digests)

    def identify(self, authorization: str, api_key: str) -> bytes:
        """Return the digest of the client's key, empty where the service has no keys.

        `authorization` and `api_key` are the header fields `authorization` and `x-api-key`; a bearer token takes
        precedence. Raises Unauthorized where the service has keys and none of them was sent.
        """
        if not self._digests:
            return b""
        scheme, _, token = authorization.partition(" ")
        key = token.strip() if scheme.lower() == "bearer" else api_key
        digest = _digest(key.encode("latin-1"))  # the header's bytes
        matches = [
            hmac.compare_digest(digest, known) for known in self._digests
        ]  # compare with all: the time must not reveal which key matched
        if not any(matches):
            reason = "The API key is not one of this service's." if key else "This service requires an API key."
            raise Unauthorized(
                f"{reason} Send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'.",
                headers={"WWW-Authenticate": 'Bearer realm="vae-service"'},
            )
        return digest


def read_keys(path: Path) -> tuple[str, ...]:
    """Read a file of keys, one per line; blank lines and lines that begin with # are skipped.

    Raises ValueError where the file cannot be read or has no keys.
    """
    name = str(path).encode(errors="replace").decode()  # bytes that are not UTF-8 cannot be printed
    try:
        lines = path.read_text("utf-8", "surrogateescape").splitlines()
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror}") from error
    keys = tuple(key for line in lines if (key := line.strip()) and not key.startswith("#"))
    if not keys:
        raise ValueError(f"{name} contains no key")
    return keys


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
