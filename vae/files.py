"""Writing a file so that a reader sees the old one or the new one, never a part."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content` in one step; on any error the old file stands and nothing is left behind.

    Raises OSError with `path` as its file name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with name_in_errors(path):
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fchmod(descriptor, 0o644)
                os.fsync(descriptor)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)  # an interrupt can come after it was renamed
            raise


@contextmanager
def name_in_errors(path: Path) -> Iterator[None]:
    """Name `path` in every OSError of the body: a write to a full disk names no file."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise
