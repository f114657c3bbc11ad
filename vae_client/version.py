"""The version of the installed distribution `vae-client`."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("vae-client")
except PackageNotFoundError:  # imported from a source tree that is not installed
    __version__ = "0+unknown"
