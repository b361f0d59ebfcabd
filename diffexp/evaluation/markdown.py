"""Markdown that reads well as plain text too: whole reports, and tables by themselves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from diffexp.evaluation.document import Block, Code, Figure, Heading, Item, Picture, Table


def markdown(blocks: Iterable[Block]) -> str:
    """Blocks as Markdown; empty strings are left out."""
    return "\n\n".join(text for text in map(_block, blocks) if text)


def _block(block: Block) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {block.text}"
    if isinstance(block, Table):
        return text_table(block.header, block.rows) if block.words is None else table(*_parts(block))
    if isinstance(block, Code):
        return f"```\n{block.text}\n```"
    if isinstance(block, Item):
        return f"* {block.text}" + (f"\n\n      {block.command}" if block.command else "")
    if isinstance(block, Figure):
        links = ", ".join(f"[{name.rsplit('.', 1)[1].upper()}]({name})" for name in block.files)
        return f"![{block.chart.name}]({block.files[0]})\n\n{links}"
    if isinstance(block, Picture):
        return f"![{block.alt}]({block.file})"
    return block


def _parts(block: Table) -> tuple[Sequence[str], Sequence[Sequence[str]], int]:
    return block.header, block.rows, block.words or 0


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
