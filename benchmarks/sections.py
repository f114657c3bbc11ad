"""clients.md: a section for each benchmark of clients, which writes its own anew and leaves the others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.machine import describe_machine

PAGE = Path(__file__).parent / "clients.md"


def write_section(title: str, command: str, *paragraphs: str) -> None:
    """Put `paragraphs`, and where and by which command they were measured, in the place of what stood under `title`."""
    measured = f"{describe_machine()}; `python -m benchmarks.{command}` wrote this."
    section = "\n\n".join((measured, *paragraphs))
    before, _, rest = PAGE.read_text().partition(f"\n## {title}\n")
    _, heading, after = rest.partition("\n## ")
    PAGE.write_text(f"{before}\n## {title}\n\n{section}\n{heading}{after}")
    print(f"## {title}\n\n{section}")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """In Markdown; the first column is text, the others are numbers."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, rule, *rows])
