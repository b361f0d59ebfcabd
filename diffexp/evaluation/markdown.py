"""Markdown tables that read well as plain text too."""

from __future__ import annotations

from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """A table with its columns padded; the first ones are text, the others are aligned to the right.

    Args:
        header: names of the columns.
        rows: cells; as many in each row as there are columns.
        words: how many columns are text.
    """
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(header))]
    rule = ["-" * width if column < words else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    lines = [_line(cells[0], widths, words), "| " + " | ".join(rule) + " |"]
    return "\n".join([*lines, *(_line(row, widths, words) for row in cells[1:])])


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of words: all columns aligned to the left and not padded."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _line(row: Sequence[str], widths: Sequence[int], words: int) -> str:
    padded = (
        cell.ljust(width) if column < words else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return "| " + " | ".join(padded) + " |"
