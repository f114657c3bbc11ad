"""Removes from a folder site-packages what the service does not use, and symbols that only debuggers read.

    python trim.py SITE_PACKAGES

A pattern that finds nothing is an error: a new version of a package may have the same content at another path.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

UNUSED = {
    "backports": ("backports/zstd/tarfile.py", "backports/zstd/zipfile"),
    "fastapi_offline": ("fastapi_offline/static/redoc.standalone.js",),
    "numpy": (
        "numpy/**/tests",
        "numpy/_core/*_tests.*.so",
        "numpy/_core/_simd.*",  # which only NumPy's tests import
        "numpy/distutils",
        "numpy/f2py",
        "numpy/fft",
        "numpy/ma",
        "numpy/polynomial",
    ),
    "onnxruntime": (
        "onnxruntime/capi/libonnxruntime.so*",  # the extension module contains it
        "onnxruntime/quantization",
        "onnxruntime/tools",
        "onnxruntime/transformers",
    ),
    "opentelemetry": ("opentelemetry/semconv/_incubating/*/[!_o]*.py",),  # all but otel_*.py
    "PIL": (  # AVIF, colour profiles, text
        "PIL/_avif.*",
        "PIL/_imagingcms.*",
        "PIL/_imagingft.*",
        "pillow.libs/libavif-*",
        "pillow.libs/libbrotli*",
        "pillow.libs/libfreetype-*",
        "pillow.libs/libharfbuzz-*",
        "pillow.libs/liblcms2-*",
        "pillow.libs/libpng16-*",  # of libfreetype; PngImagePlugin is Python
    ),
    "pydantic": ("pydantic/mypy.py", "pydantic/v1"),
    "torch": (
        "functorch",
        "torch/_dynamo",
        "torch/_inductor",
        "torch/bin/*",
        "torch/include",
        "torch/lib/*_test.so",
        "torch/onnx",
        "torch/share",
        "torch/test",
        "torch/testing/_internal/*",
    ),
}
"""Paths to remove, by the package that must be installed for them."""
KEPT = {
    "torch/bin/torch_shm_manager",
    "torch/testing/_internal/__init__.py",
    "torch/testing/_internal/common_dtype.py",
    "torch/testing/_internal/logging_tensor.py",
}
SOURCES = {".a", ".cc", ".h", ".proto", ".pxd", ".pyi", ".pyx"}
"""Suffixes of files for compilers and type checkers."""
WITH_SYMBOLS = (
    "PIL/*.so",
    "httptools/parser/*.so",
    "isal/*.so",
    "ml_dtypes/*.so",
    "safetensors/*.so",
    "torch/lib/libtorch*.so*",
    "uvloop/*.so",
)
"""Libraries whose symbol tables take 100 KB or more; those in numpy.libs could not be loaded after `strip`."""


def main(site: Path) -> None:
    """Remove files and symbols from `site`."""
    for package, patterns in UNUSED.items():
        if (site / package).exists():
            for pattern in patterns:
                _remove(site, pattern)
    for path in list(site.rglob("*")):
        if path.suffix in SOURCES and path.is_file():
            path.unlink()
    for folder in sorted((path for path in site.rglob("*") if path.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()
    libraries = [path for pattern in WITH_SYMBOLS for path in site.glob(pattern)]
    subprocess.run(["strip", "--strip-unneeded", *libraries], check=True)


def _remove(site: Path, pattern: str) -> None:
    found = list(site.glob(pattern))
    if not found:
        raise SystemExit(f"trim.py: nothing matches {pattern}")
    for path in found:
        if path.relative_to(site).as_posix() in KEPT:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
