"""The matrix as Markdown: orders, errors, predictions, and every reason of a refusal once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from diffexp.core.errors import ConfigError
from diffexp.evaluation.markdown import table, text_table
from diffexp.evaluation.matrix import Cell, largest_difference

BEGIN, END = "<!-- matrix: written by task=matrix -->", "<!-- end of matrix -->"
"""Between these lines of a file, e.g. README.md, stand the tables of `summary`."""


def inserted(text: str, cells: Sequence[Cell] | None, where: str) -> str:
    """A text with new tables between the two marks; None: as it is, to see whether there are such.

    Raises:
        ConfigError: without the marks, or with several.
    """
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end) or BEGIN in tail:
        raise ConfigError(f"matrix.into={where}: needs the lines {BEGIN} and {END} once, between which the tables go")
    return text if cells is None else f"{head}{begin}\n\n{summary(cells)}\n{end}{tail}"


def summary(cells: Sequence[Cell]) -> str:
    """Orders and predictions of every process."""
    return f"{orders(cells)}\n\n{count(cells)}\n\n{predictions(cells)}\n"


def orders(cells: Sequence[Cell]) -> str:
    """Process by sampler: the measured order."""
    return _by_sampler(cells, lambda cell: cell.spelled)


def errors(cells: Sequence[Cell]) -> str:
    """Process by sampler: the errors at all budgets."""
    return _by_sampler(cells, lambda cell: " ".join(f"{error:.1e}" for error in cell.errors) or cell.spelled)


def _by_sampler(cells: Sequence[Cell], spell: Callable[[Cell], str]) -> str:
    """One row for each process; of the predictions, the first that fits speaks for all."""
    samplers = list(dict.fromkeys(cell.sampler for cell in cells))
    told: dict[tuple[str, str], Cell] = {}
    for cell in cells:
        place = cell.process, cell.sampler
        if place not in told or (cell.fits and not told[place].fits) or (cell.broken and not told[place].fits):
            told[place] = cell
    rows = [
        [f"`{process}`", *(spell(told[process, sampler]) for sampler in samplers)]
        for process in dict.fromkeys(cell.process for cell in cells)
    ]
    return table(["process", *(f"`{sampler}`" for sampler in samplers)], rows)


def predictions(cells: Sequence[Cell]) -> str:
    """The predictions that fit each process with some sampler, and what they need besides."""
    rows = []
    for process in dict.fromkeys(cell.process for cell in cells):
        fitting = [cell for cell in cells if cell.process == process and cell.fits]
        by_words: dict[str, list[str]] = {}
        for cell in fitting:
            own = " ".join(f"`{word}`" for word in cell.words if word.startswith("prediction."))
            names = by_words.setdefault(own, [])
            if f"`{cell.prediction}`" not in names:
                names.append(f"`{cell.prediction}`")
        parts = [", ".join(names) + (f" with {words}" if words else "") for words, names in by_words.items()]
        rows.append([f"`{process}`", "; ".join(parts) or "–"])
    return text_table(["process", "predictions"], rows)


def refusals(cells: Sequence[Cell]) -> str:
    """Every reason once, with the number of its cells and the first of them."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.reason is not None:
            found.setdefault(cell.reason, []).append(cell)
    rows = [
        [reason, str(len(group)), f"{group[0].process}, {group[0].sampler}, {group[0].prediction}"]
        for reason, group in sorted(found.items(), key=lambda item: -len(item[1]))
    ]
    return text_table(["reason", "cells", "first"], rows)


def count(cells: Sequence[Cell]) -> str:
    """One sentence of numbers."""
    fitting, broken = sum(cell.fits for cell in cells), sum(cell.broken for cell in cells)
    relative, where = largest_difference(cells)
    text = f"{len(cells):,} cells: {fitting:,} fit, {len(cells) - fitting - broken:,} are refused, {broken} are broken."
    if where:
        text += f" Predictions of one law differ by at most {relative:.1g} of the error ({where})."
    return text


def document(cells: Sequence[Cell], budgets: Sequence[int], mean: float, std: float, words: Sequence[str]) -> str:
    """The whole report.

    Args:
        cells: all of them.
        budgets: NFE at which errors were asked for.
        mean, std: of the data.
        words: lines about the grids.
    """
    asked = " and ".join(map(str, budgets))
    return "\n".join(
        [
            "# The matrix",
            "",
            f"Every process with every sampler and every prediction, on pixels N({mean:g}, {std:g}^2), with the exact "
            "denoiser in the words of each prediction. An error is the Wasserstein-2 distance, per pixel, between the "
            "law of the samples and the exact law at the grid's last time. It comes in closed form from the sampler "
            "itself, without Monte Carlo, in float64, from the exact law at the grid's first time (on a bridge from "
            "its end point). Samplers are those of conf/, without clipping. The order is that between 128 and 256 "
            "steps, or fewer where rounding is near; `fits` stands where none is meant, `–` for a refusal.",
            "",
            count(cells),
            "",
            "## Order",
            "",
            orders(cells),
            "",
            f"## Error at NFE {asked}, or the nearest that the sampler can meet",
            "",
            errors(cells),
            "",
            "## Predictions",
            "",
            predictions(cells),
            "",
            "## Grids",
            "",
            *words,
            "",
            "## Refusals",
            "",
            refusals(cells),
            "",
        ]
    )
