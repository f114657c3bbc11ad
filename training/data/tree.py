"""The files in a folder and its sub-folders, those behind symbolic links too."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from operator import attrgetter
from pathlib import Path

from vae.metadata import Fit

FOLDER_FIT: Fit = "cover"
"""How a folder's pictures are brought to one shape."""
APPLE_DOUBLE = "._"
"""Beginning of the names of macOS's metadata files, which have the suffix of the file that they belong to."""
KINDS = 5
"""Most kinds of skipped files that are named; the others are told as one number."""


def walk(root: Path) -> Iterator[tuple[Path, list[str] | None]]:
    """Each folder from `root` down, with the sorted names of all in it that is no folder, always in the same order.

    Folders behind symbolic links come after all others. A folder that was read before, under another name, has None in
    place of its names, so that a loop of links ends. Raises OSError where a folder cannot be read.
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
    """The files under `root` with one of `suffixes`, sorted, and how many others there are of each kind."""
    found: list[Path] = []
    skipped: Counter[str] = Counter()
    for folder, names in walk(root):
        if names is None:
            skipped["links to folders that were read already"] += 1
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
    """A sentence on what `find_files` left out under `root`."""
    told = skipped.most_common(KINDS)
    rest = skipped.total() - sum(count for _, count in told)
    kinds = [f"{count:,} {kind}" for kind, count in told] + ([f"{rest:,} of other kinds"] if rest else [])
    return (
        f"Skipped in {printable(str(root))}: {', '.join(kinds)}. Only files that end in {', '.join(suffixes)} are read."
    )


def printable(name: str) -> str:
    """A file's name as text: bytes that are no UTF-8 become backslash escapes."""
    return os.fsencode(name).decode(errors="backslashreplace")
