"""The options of `vae-train fit` as flags of the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

from training.config.fit_config import FitConfig
from training.config.options import GROUPS, OLD_NAMES, flag
from training.config.presets import PRESETS


def replace_old_flags(arguments: Sequence[str]) -> list[str]:
    """Replace the deprecated names of options, with a warning on stderr."""
    renamed = {flag(old): flag(new) for new, old in OLD_NAMES.items()} | {"--no-output-bias": "--no-init-output-bias"}
    replaced = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name in renamed:
            print(f"{name} is now called {renamed[name]}; the next version will not know it.", file=sys.stderr)
        replaced.append(renamed.get(name, name) + equals + value)
    return replaced


def add_options(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Add a flag for each field of FitConfig to `parser`; help shows the defaults of the preset in `arguments`.

    Parsed options contain only those that were given.

    Built on argparse: pydantic-settings has no headings for flags without a dot and shows None as a default,
    jsonargparse has neither dashes within flags nor --no-… forms.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default="default", nargs="?")
    preset = first.parse_known_args(arguments)[0].preset
    if preset not in PRESETS:
        parser.error(f"--preset is {preset}; it must be one of: {', '.join(PRESETS)}.")
    kinds = get_type_hints(FitConfig)
    metadata = {each.name: each.metadata for each in fields(FitConfig)}
    for heading, names in GROUPS.items():
        group = parser.add_argument_group(heading)
        if heading == "general":
            group.add_argument(
                "--config", type=Path, metavar="PATH", dest="config_file",
                help="YAML file with values of options, `epochs: 20`; the command line overrides them",
            )  # fmt: skip
            group.add_argument("--print-config", action="store_true", help="print all options as such a file, and exit")
        for name in names:
            kind, default = kinds[name], getattr(PRESETS[preset], name)
            kind = next(iter(get_args(kind)), kind)  # `int | None` → int
            shown = metadata[name]["otherwise"] if default is None else default
            told = f"{metadata[name]['help']} (default: {shown})"
            about: dict[str, Any] = {"default": argparse.SUPPRESS, "help": told}
            if kind is bool:
                group.add_argument(flag(name), action=argparse.BooleanOptionalAction, **about)
            else:
                convert = _CONVERTERS.get(kind, kind)
                group.add_argument(flag(name), type=convert, metavar=_METAVARS.get(kind, "NAME"), **about)


def from_options(options: argparse.Namespace) -> FitConfig:
    """Return the preset with the parsed options applied; raises ConfigError if one is invalid."""
    given = {each.name: getattr(options, each.name) for each in fields(FitConfig) if each.name in options}
    return replace(PRESETS[given.get("preset", "default")], **given)


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, such as 10.") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, such as 0.001.") from None


def _shape(text: str) -> tuple[int, ...] | None:
    sizes = text.split(",")
    if text and (len(sizes) != 3 or not all(size.isascii() and size.isdecimal() for size in sizes)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a shape C,h,w, such as 8,8,8.")
    return tuple(map(int, sizes)) if text else None


_CONVERTERS: dict[Any, Callable[[str], Any]] = {int: _whole_number, float: _number, tuple[int, int, int]: _shape}
_METAVARS: dict[Any, str] = {int: "N", float: "X", Path: "PATH", tuple[int, int, int]: "C,h,w"}
