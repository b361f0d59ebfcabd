"""Markdown tables that read well as plain text too."""

from __future__ import annotations

from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with its columns padded; the first column is text, the others are aligned to the right.

    Args:
        header: names of the columns.
        rows: cells; as many in each row as there are columns.
    """
    cells = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    rule = ["-" * max(widths[0], 3), *("-" * max(width - 1, 2) + ":" for width in widths[1:])]
    lines = [_line(cells[0], widths), "| " + " | ".join(rule) + " |"]
    return "\n".join([*lines, *(_line(row, widths) for row in cells[1:])])


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of words: all columns aligned to the left and not padded."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    padded = (
        cell.ljust(max(width, 3)) if column == 0 else cell.rjust(max(width, 3))
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return "| " + " | ".join(padded) + " |"
