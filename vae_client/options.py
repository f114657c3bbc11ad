"""The options of a client, from its arguments and the environment."""

from __future__ import annotations

import os
import platform
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypedDict

import httpx

from vae_client.version import __version__

if TYPE_CHECKING:
    from vae_client.calls import Call

DEFAULT_TIMEOUT_S = 60
DEFAULT_MAX_RETRIES = 5
PORTS = range(1, 2**16)
USER_INFORMATION = re.compile(r"//[^/]*@")
"""User name and password of a URL, which error messages must not contain."""
USER_AGENT = f"vae-client/{__version__} httpx/{httpx.__version__} Python/{platform.python_version()}"

Timeout = float | httpx.Timeout | None
"""A number limits a call with all its attempts, httpx.Timeout each phase of each attempt; None is no limit."""


class ClientOptions(TypedDict, total=False):
    """Arguments of `with_options`, each as of `Client`."""

    base_url: str | httpx.URL
    api_key: str
    timeout: Timeout
    max_retries: int
    default_headers: Mapping[str, str]


class RenamedOptions(TypedDict, total=False):
    """Old names of arguments, which work until version 0.2."""

    url: str
    key: str | None
    retries: int


_RENAMED = {"url": "base_url", "key": "api_key", "retries": "max_retries"}


@dataclass(repr=False)
class Options:
    """What requests are made with; raises ValueError for a bad URL, key or header."""

    base_url: str | httpx.URL
    api_key: str
    """Empty for none."""
    timeout: Timeout
    max_retries: int
    default_headers: Mapping[str, str]

    def __post_init__(self) -> None:
        self._url = _parse_url(self.base_url)
        self._headers = httpx.Headers({"user-agent": USER_AGENT})
        if self.api_key:
            self._headers["authorization"] = f"Bearer {_check_key(self.api_key)}"
        for name, value in self.default_headers.items():
            if not (value.isascii() and value.isprintable()):
                raise ValueError(f"The value of the header {name!r} in default_headers must be printable ASCII.")
            self._headers[name] = value

    def request(self, call: Call[Any]) -> dict[str, Any]:
        """Return the arguments of `httpx.Client.stream`."""
        url = self._url.copy_with(raw_path=self._url.raw_path.rstrip(b"/") + call.path.encode())
        headers = self._headers.copy()
        headers.update(call.request["headers"])
        return {**call.request, "method": call.method, "url": url, "headers": headers}

    def changed(self, changes: ClientOptions) -> Options:
        """Return a copy with other options; headers are added to those that there are."""
        headers = {**self.default_headers, **changes.get("default_headers", {})}
        options: dict[str, Any] = {**changes, "default_headers": headers}
        return replace(self, **options)


def read_options(
    *,
    base_url: str | httpx.URL | None,
    api_key: str | None,
    timeout: Timeout,
    max_retries: int,
    default_headers: Mapping[str, str] | None,
    renamed: RenamedOptions,
) -> Options:
    """Return the options of a client: its arguments, and the environment for those that are None.

    A warning about an argument of `renamed` is attributed to the code that creates the client.

    Raises:
        ValueError: An argument is not valid, or there is no base URL.
        TypeError: `renamed` has a name that never existed.

    """
    for old in renamed:
        if old not in _RENAMED:
            raise TypeError(f"The client has no option {old!r}.")
        message = f"The option {old} is now {_RENAMED[old]}; the old name will be removed in version 0.2."
        warnings.warn(message, DeprecationWarning, stacklevel=3)
    base_url = renamed.get("url", base_url)
    if base_url is None:
        base_url = os.environ.get("VAE_BASE_URL")
    if base_url is None:
        raise ValueError("The URL of the service is missing; pass base_url or set VAE_BASE_URL.")
    api_key = renamed.get("key", api_key)
    if api_key is None:
        api_key = os.environ.get("VAE_API_KEY", "")
    return Options(base_url, api_key, timeout, renamed.get("retries", max_retries), default_headers or {})


def _parse_url(url: str | httpx.URL) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL()
    if (
        parsed.scheme not in ("http", "https")
        or not parsed.host
        or " " in str(url)
        or not (parsed.port is None or parsed.port in PORTS)
    ):
        shown = USER_INFORMATION.sub("//", str(url))
        raise ValueError(
            f"{shown!r} is not the URL of a service; pass one like http://127.0.0.1:8000, without a port or with one "
            "from 1 to 65535."
        )
    return parsed


def _check_key(key: str) -> str:
    """Return `key` without surrounding white space, such as a file's last newline; raises ValueError."""
    key = key.strip()
    if not (key and key.isascii() and key.isprintable()):
        raise ValueError("api_key must be printable ASCII, and not empty: it is sent in a header field.")
    return key
