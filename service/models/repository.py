"""Repository: a folder of models, which is looked at without reading the files.

digits.safetensors            the model digits, version 1
faces/3.safetensors           the model faces, version 3
faces/4/                      version 4, a folder of diffusers
flux/config.json …            a folder of diffusers: the model flux, version 1
digits.safetensors.sha256     optional: the file's hash, as sha256sum writes it
models.yaml                   optional: aliases and options, see `models_file`
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from service.models.catalogue import Entry, Identity, Key
from service.models.models_file import MODEL_NAME, NAME, VERSION, ModelsFile, read_models_file
from vae.arrays import STATE_DICTS
from vae.latents import LatentSet

SUFFIXES = (".safetensors", *STATE_DICTS)
BESIDE = (".latents.safetensors", ".state.pt")
"""Ends of names of files that belong to a checkpoint and are none."""
FIRST_VERSION = "1"
"""Version of a model that has no folder of versions."""
HASH_SUFFIX = ".sha256"


@dataclass(frozen=True)
class Found:
    """A model's files at one look."""

    path: Path
    identity: Identity


@dataclass(frozen=True)
class Listing:
    """What one look at the folder has found."""

    models: dict[Key, Found]
    problems: dict[str, str]
    """Names that no model can have, each with a sentence."""
    models_file: Identity
    """Empty if there is none."""


class Repository:
    """A folder of models."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def look(self) -> Listing:
        """List the models and the state of their files; raises OSError where the folder cannot be read."""
        models: dict[Key, Found] = {}
        problems: dict[str, str] = {}
        for path in sorted(self.folder.iterdir()):
            name = path.name if path.is_dir() else path.stem
            if not _is_model(path):
                continue
            if not re.fullmatch(MODEL_NAME, name):
                problems[name] = "A model's name has letters, digits, '.', '_' and '-', at most 64, no others."
                continue
            for version, of_version in _versions(path):
                try:
                    found = Found(of_version, _identity(of_version))
                except FileNotFoundError:  # removed since it was listed
                    continue
                if (name, version) in models:
                    problems[f"{name}/{version}"] = "Two files have this name and version; remove one of them."
                models.setdefault((name, version), found)
        return Listing(models, problems, _of_files([self.folder / NAME]))

    def read_options(self) -> ModelsFile:
        """Read models.yaml; raises ModelsFileError."""
        return read_models_file(self.folder / NAME)


def identify(path: Path) -> Identity:
    """Return the identity of a model's files now; empty if they are gone."""
    try:
        return _identity(path)
    except FileNotFoundError:
        return ()


def check_hash(entry: Entry) -> str | None:
    """Compare a file with the hash beside it, if there is one; return what is wrong."""
    beside = entry.path.with_name(entry.path.name + HASH_SUFFIX)
    if not entry.path.is_file() or not beside.is_file():
        return None
    expected = beside.read_text("utf-8", "replace").split()[:1]
    with entry.path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if [found] == expected:
        return None
    return f"The file's sha256 is {found}, and {beside.name} has another one: the file is incomplete, or not the one."


def _is_model(path: Path) -> bool:
    if path.name.startswith(".") or path.name.endswith(BESIDE):
        return False
    return path.is_dir() or path.suffix in SUFFIXES


def _versions(path: Path) -> Iterator[tuple[str, Path]]:
    """Yield the versions of a model and their paths."""
    if not path.is_dir():
        yield FIRST_VERSION, path
        return
    has_versions = False
    for inner in sorted(path.iterdir()):
        version = inner.name if inner.is_dir() else inner.stem
        if _is_model(inner) and re.fullmatch(VERSION, version):
            has_versions = True
            yield str(int(version)), inner
    if not has_versions and (path / "config.json").exists():
        yield FIRST_VERSION, path


def _identity(path: Path) -> Identity:
    if path.is_dir():
        return _of_files([file for file in sorted(path.iterdir()) if file.is_file()])
    path.stat()  # raises FileNotFoundError
    return _of_files([path, LatentSet.path_beside(path), path.with_name(path.name + HASH_SUFFIX)])


def _of_files(files: list[Path]) -> Identity:
    identity = []
    for file in files:
        try:
            state = file.stat()
        except FileNotFoundError:
            continue
        identity.append((file.name, state.st_ino, state.st_size, state.st_mtime_ns))
    return tuple(identity)
