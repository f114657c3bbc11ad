"""Hook of MkDocs: the pages of the site, with the paths that they have in the repository.

MkDocs takes pages from `docs/` only. README, benchmarks and others stand elsewhere, and links lead to them: with the
paths of the repository these links work as they are, and MkDocs reports the broken ones.
"""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
PATTERNS = (
    "*.md",
    "LICENSE",
    "benchmarks/*.md",
    "benchmarks/*.png",
    "deploy/ray/*.md",
    "docs/**/*.md",
    "docs/*.png",
    "docs/*.css",
    "docs/*.webp",
    "examples/*.ipynb",
    "examples/*.py",
    "tests/soak/*.md",
    "weights/*.md",
    "weights/*.png",
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace the files of `docs/` by those of the repository that match PATTERNS; keep those of the theme."""
    for file in list(files):
        if file.src_dir == config.docs_dir:
            files.remove(file)
    for path in sorted(path for pattern in PATTERNS for path in ROOT.glob(pattern)):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files
