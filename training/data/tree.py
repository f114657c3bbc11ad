"""Find the files of a folder and its subfolders, following symbolic links."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from operator import attrgetter
from pathlib import Path

from vae.metadata import Fit

FOLDER_FIT: Fit = "cover"
"""How the pictures of a folder are resized to one shape."""
APPLE_DOUBLE = "._"
"""Prefix of macOS's metadata files, which have the suffix of the file that they describe."""
MAX_KINDS = 5
"""Kinds of skipped files that are listed by name, so that the line stays short; the others are summed up."""


def walk(root: Path) -> Iterator[tuple[Path, list[str] | None]]:
    """Walk `root` and its subfolders in a fixed order, those behind symbolic links last.

    Yields:
        Each folder and the sorted names of its files, or None for a folder that was visited before under another
        path, which ends loops of links.

    Raises:
        OSError: A folder cannot be read.

    """
    folders, links = [root], deque[Path]()
    seen: set[tuple[int, int]] = set()
    while folders or links:
        folder = folders.pop() if folders else links.popleft()
        state = folder.stat()
        if (state.st_dev, state.st_ino) in seen:
            yield folder, None
            continue
        seen.add((state.st_dev, state.st_ino))
        names: list[str] = []
        inner: list[Path] = []
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=attrgetter("name")):
                if entry.is_dir(follow_symlinks=False):
                    inner.append(folder / entry.name)
                elif entry.is_symlink() and (folder / entry.name).is_dir():
                    links.append(folder / entry.name)
                else:
                    names.append(entry.name)
        folders += reversed(inner)
        yield folder, names


def find_files(root: Path, suffixes: Sequence[str]) -> tuple[list[Path], Counter[str]]:
    """Return the files under `root` with one of `suffixes`, sorted, and the number of skipped files by kind."""
    found: list[Path] = []
    skipped: Counter[str] = Counter()
    for folder, names in walk(root):
        if names is None:
            skipped["links to folders that were read before"] += 1
            continue
        for path in map(folder.joinpath, names):
            suffix = path.suffix.lower()
            if path.name.startswith(APPLE_DOUBLE):
                skipped["._* (metadata of macOS)"] += 1
            elif suffix not in suffixes:
                skipped[printable(suffix) or "without a suffix"] += 1
            elif path.is_file():
                found.append(path)
            else:
                skipped["broken links or special files"] += 1
    return sorted(found), skipped


def describe_skipped(root: Path, skipped: Counter[str], suffixes: Sequence[str]) -> str:
    """Describe in a sentence the files that `find_files` skipped under `root`."""
    listed = skipped.most_common(MAX_KINDS)
    rest = skipped.total() - sum(count for _, count in listed)
    kinds = [f"{count:,} {kind}" for kind, count in listed] + ([f"{rest:,} of other kinds"] if rest else [])
    return (
        f"Skipped in {printable(str(root))}: {', '.join(kinds)}. Only files that end in {', '.join(suffixes)} are read."
    )


def printable(name: str) -> str:
    """Decode a file name; bytes that are not UTF-8 become backslash escapes."""
    return os.fsencode(name).decode(errors="backslashreplace")
