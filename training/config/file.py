"""Options of `vae-train fit` as a YAML file: --config reads it, --print-config and each training write it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml

from training.config.fit_config import FitConfig
from training.config.options import GROUPS, ConfigError
from training.config.presets import PRESETS

SIZES = tuple[int, int, int]
KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
    SIZES: "a list of three whole numbers",
}
"""Types of options → what a file gives for them."""


def read_config(path: Path) -> dict[str, Any]:
    """Read the options in the YAML file `path`.

    Returns:
        The values of the options that the file has, by the names of FitConfig's fields.

    Raises:
        ConfigError: The file cannot be read, has a key that is no option, or a value that its option does not take.

    """
    try:
        content = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"--config {path} cannot be read: {error.strerror}.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise ConfigError(f"--config {path} is not YAML{where}; lines such as `epochs: 20` are expected.") from error
    if content is None:  # an empty file
        return {}
    if not isinstance(content, Mapping):
        raise ConfigError(f"--config {path} holds no options; lines such as `epochs: 20` are expected.")
    return {name: _value(path, name, value) for name, value in content.items()}


def to_yaml(config: FitConfig) -> str:
    """Return every option of `config` as YAML, under the headings of `vae-train fit --help`."""
    parts = []
    for heading, names in GROUPS.items():
        values = {name: getattr(config, name) for name in names}
        plain = {name: _plain(value) for name, value in values.items()}
        parts.append(f"# {heading}\n{yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)}")
    return "\n".join(parts)


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _value(path: Path, name: object, value: object) -> Any:
    """Return `value` as the type of the option `name`; raises ConfigError if it is of another or out of bounds."""
    options = {each.name: each for each in fields(FitConfig)}
    if not isinstance(name, str) or name not in options:
        near = get_close_matches(str(name).replace("-", "_"), options, n=1)
        advice = f"do you mean {near[0]}?" if near else "vae-train fit --print-config prints all of them."
        raise ConfigError(f"--config {path} has the key {name}, which is no option; {advice}")
    about = options[name].metadata
    if value is None and "unset" in about:
        return None
    hint = get_type_hints(FitConfig)[name]
    kind = next(iter(get_args(hint)), hint)  # `int | None` → int
    try:
        converted = _convert(kind, value)
    except (TypeError, ValueError):
        raise ConfigError(f"--config {path}: {name} is {value!r}; {KINDS[kind]} is expected.") from None
    if name == "preset" and converted not in PRESETS:
        raise ConfigError(f"--config {path}: preset is {converted}; it must be one of: {', '.join(PRESETS)}.")
    if not about["valid"](converted) and converted != about.get("unset"):
        raise ConfigError(f"--config {path}: {name} is {converted}; it must be {about['expected']}.")
    return converted


def _convert(kind: Any, value: object) -> Any:
    if kind is float and isinstance(value, int | str) and not isinstance(value, bool):
        return float(value)  # YAML 1.1 takes 1e-3, which has no point, for a text
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind == SIZES and isinstance(value, list) and [type(size) for size in value] == [int] * 3:
        return tuple(value)
    if type(value) is not kind:
        raise TypeError
    return value
