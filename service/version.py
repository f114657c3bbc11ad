"""The service's name and version, as its API gives them."""

from importlib.metadata import version

TITLE = "VAE service"
VERSION = version("vae-service")
