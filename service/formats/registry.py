"""All array formats."""

from collections.abc import Mapping
from importlib.util import find_spec

from service.formats import npy, safetensors
from service.formats.arrays import Array, Format

ARROW = "application/vnd.apache.arrow.stream"


def _read_arrow(body: bytes, name: str) -> Array:
    from service.formats.arrow import read_arrow  # noqa: PLC0415 - pyarrow takes a quarter of a second and 27 MB

    return read_arrow(body, name)


def _write_arrow(arrays: Mapping[str, Array], _: bool) -> bytes:
    from service.formats.arrow import write_arrow  # noqa: PLC0415

    return write_arrow(arrays)


_FORMATS = [npy.FORMAT, safetensors.FORMAT]
if find_spec("pyarrow"):
    _FORMATS.append(Format(ARROW, _read_arrow, _write_arrow, is_table=True, copies=1))
ARRAY_FORMATS = {each.media_type: each for each in _FORMATS}
"""By media type."""


def missing(asked: str) -> str:
    """Return a hint for the error message if the client asked for Arrow and pyarrow is not installed."""
    if ARROW in asked.lower() and ARROW not in ARRAY_FORMATS:
        return " Arrow wants pyarrow where the service runs: pip install 'vae-service[arrow]'."
    return ""
