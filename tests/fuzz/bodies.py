"""Coverage-guided fuzzing of the paths that pictures and arrays take: python -m tests.fuzz.bodies --seconds 600

Wants atheris (pip install atheris). What makes the service fail, or takes it longer than a second, is written to
tests/fuzz/found/ and ends the run; once it is mended the file's bytes belong into a test.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=[
        "PIL",
        "pictures",
        "service.formats",
        "numpy.lib",
    ]
):
    import numpy as np
    from PIL import Image

    from service.errors import ServiceError
    from service.formats.images import open_image, to_array
    from service.formats.npy import read_npy
    from tests.fuzz.inputs import SEEDS

LONGEST_S = 1
FOUND = Path(__file__).parent / "found"
DICTIONARY = r"""
"\x89PNG\x0d\x0a\x1a\x0a"
"IHDR"
"IDAT"
"iCCP"
"tRNS"
"eXIf"
"acTL"
"GIF89a"
"RIFF"
"WEBPVP8X"
"ANMF"
"\xff\xd8"
"\xff\xda"
"\xff\xe1\x00\x10Exif\x00\x00"
"MM\x00*"
"\x93NUMPY\x01\x00"
"'descr': '<f4'"
"'shape': (1, 28, 28)"
"""


def feed(body: bytes) -> None:
    """Read `body` as the service would, both as a picture and as an array."""
    try:
        pixels = to_array(open_image(body, 10**6), (1, 28, 28), fit="contain", invert=False)
    except ServiceError as error:
        if error.status not in (400, 413):
            raise AssertionError(f"A picture is answered {error.status}.") from error
    else:
        if pixels.shape != (1, 28, 28) or not np.isfinite(pixels).all():
            raise AssertionError("A picture becomes something else than pixels.")
    try:
        read_npy(body)
    except ServiceError as error:
        if error.status not in (400, 422):
            raise AssertionError(f"An array is answered {error.status}.") from error


def timed(body: bytes) -> None:
    """`feed`, in time."""
    begun = time.process_time()
    try:
        feed(body)
    except Exception:
        keep(body)
        raise
    if (took := time.process_time() - begun) > LONGEST_S:
        keep(body)
        raise TimeoutError(f"{len(body)} bytes took {took:.1f} s.")


def keep(body: bytes) -> None:
    """Write down what was found."""
    FOUND.mkdir(exist_ok=True)
    (FOUND / sha256(body).hexdigest()[:16]).write_bytes(body)


def main() -> None:
    """Fuzz."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=600, help="how long to go on")
    seconds: int = parser.parse_args().seconds
    Image.MAX_IMAGE_PIXELS = None  # as the service has it
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for number, seed in enumerate(SEEDS):
            (corpus / str(number)).write_bytes(seed)
        words = Path(folder) / "words"
        words.write_text(DICTIONARY)
        flags = [f"-max_total_time={seconds}", f"-dict={words}", "-max_len=20000", "-rss_limit_mb=4096", "-timeout=30"]
        atheris.Setup([sys.argv[0], str(corpus), *flags], timed)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
