"""Write a file so that readers see either the old content or the new, never a part."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the file at `path` by `content` in one step, creating missing folders.

    On any error the old file stays, and no temporary file is left.

    Raises:
        OSError: With `path` as its `filename`.

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
            Path(temporary).unlink(missing_ok=True)  # missing if the interrupt came after the rename
            raise


@contextmanager
def name_in_errors(path: Path) -> Iterator[None]:
    """Set `path` as the file name of each OSError of the body: a failed write to a full disk has none."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise
