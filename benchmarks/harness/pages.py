"""Result pages: where a benchmark ran, tables, and the sections of clients.md."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parents[1]
PACKAGES = ("torch", "fastapi", "uvicorn")


def describe_machine() -> str:
    """Processor, cores, Python and the packages that matter, in one line."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"{names[0] if names else platform.processor()}, {cores} cores, Python {platform.python_version()}, {packages}"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]], text: int = 1) -> str:
    """A table in Markdown; the first `text` columns hold text, the others numbers, aligned to the right."""
    rule = ["---"] * text + ["---:"] * (len(head) - text)
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, rule, *rows])


def number(value: float) -> str:
    """Three digits, and whole ones above."""
    return f"{value:,.0f}" if abs(value) >= 100 or float(value).is_integer() else f"{value:.3g}"


def span(values: Sequence[float]) -> str:
    """Lowest to highest."""
    return f"{number(min(values))} to {number(max(values))}"


def write_page(name: str, title: str, *paragraphs: str) -> None:
    """Write and print benchmarks/`name`.md: where and by which module it was measured, then `paragraphs`."""
    page = "\n\n".join((f"# {title}", f"{describe_machine()}; `python -m benchmarks.{name}` wrote this.", *paragraphs))
    print(page)
    (HERE / f"{name}.md").write_text(page + "\n")


def write_section(title: str, command: str, *paragraphs: str) -> None:
    """Put `paragraphs`, and where and by which command they were measured, under `title` of clients.md."""
    file = HERE / "clients.md"
    section = "\n\n".join((f"{describe_machine()}; `python -m benchmarks.{command}` wrote this.", *paragraphs))
    before, _, rest = file.read_text().partition(f"\n## {title}\n")
    _, heading, after = rest.partition("\n## ")
    file.write_text(f"{before}\n## {title}\n\n{section}\n{heading}{after}")
    print(f"## {title}\n\n{section}")
