"""Charts as files: PNG for pages, SVG, and PDF for papers."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from diffexp.core.files import atomic_path
from diffexp.evaluation.chart import Axis, Chart, Floor, Series
from diffexp.evaluation.document import Table, plain

_SIZE = (6.4, 4.2)  # inches
_LETTER, _SPACE, _ROW = 0.078, 0.2, 0.2  # inches of a table: a letter of 9 points, between columns, from line to line
_WIDTH = 92  # letters in a line of the notes: a line that is wider than the figure leaves no room for the axes
_STYLE = {
    "svg.hashsalt": "diffexp", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False,
    "pdf.fonttype": 42,  # letters, not drawings of them: publishers ask for it
}  # fmt: skip
# What would stamp the time or the library into a file, taken out: the same numbers give the same bytes.
_STAMPS: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None, "Producer": None, "Creator": None},
}


def draw_chart(chart: Chart, path: Path) -> list[Path]:
    """Draw a chart as PNG (150 dpi), SVG and PDF; the same numbers give the same bytes.

    Args:
        chart: what is drawn.
        path: path without suffix.

    Returns:
        the files written.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        beside = _beside(chart)
        figure = Figure(
            figsize=(_SIZE[0] + beside, max(_SIZE[1], 1.6 + 0.19 * len(chart.series))), layout="constrained"
        )
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        _front(axes, chart)
        for series in chart.series:
            _curve(axes, series)
        for floor in chart.floors:
            _floor(axes, floor)
        _scale(axes.xaxis, axes.set_xscale, axes.set_xlim, chart.x)
        _scale(axes.yaxis, axes.set_yscale, axes.set_ylim, chart.y)
        _words(axes, chart)
        if beside:
            figure.legend(loc="outside right upper", frameon=False, fontsize=9)
        else:
            axes.legend(framealpha=0.85, edgecolor="none", ncols=2 if len(chart.series) > 4 else 1)
        files = [path.with_suffix(suffix) for suffix in _STAMPS]
        for file in files:
            with atomic_path(file) as temporary:
                figure.savefig(temporary, format=file.suffix[1:], dpi=150, metadata=_STAMPS[file.suffix])
            figure.set_layout_engine("none")  # places are found once: that takes longer than the drawing
    return files


def draw_table(table: Table, path: Path) -> None:
    """Draw a table as PDF, as booktabs would set it: three rules, words to the left, numbers to the right."""
    import matplotlib
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.figure import Figure

    lines = [[plain(cell) for cell in row] for row in (table.header, *table.rows)]
    widths = [max(len(row[place]) for row in lines) * _LETTER + _SPACE for place in range(len(table.header))]
    words = len(widths) if table.words is None else table.words
    width, height = sum(widths), (len(lines) + 1) * _ROW
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height))
        FigureCanvasPdf(figure)
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        axes.axis("off")
        for y, thick in ((0.3, 1.2), (1.5, 0.6), (len(lines) + 0.7, 1.2)):
            axes.plot((0, width), (y * _ROW, y * _ROW), color="black", linewidth=thick)
        for number, row in enumerate(lines):
            left, y = 0.0, (number + (0.9 if number == 0 else 1.1)) * _ROW
            for place, (cell, room) in enumerate(zip(row, widths, strict=True)):
                x, side = (left + _SPACE / 2, "left") if place < words else (left + room - _SPACE / 2, "right")
                axes.text(x, y, cell, ha=side, va="center", fontsize=9)
                left += room
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="pdf", metadata=_STAMPS[".pdf"])


def _beside(chart: Chart) -> float:
    """Inches for a legend beside the axes; 0 where it has room in them."""
    longest = max((len(series.label) for series in chart.series), default=0)
    return 0.0 if len(chart.series) <= 6 and longest <= 30 else 0.7 + 0.072 * longest


def _curve(axes: Any, series: Series) -> None:
    """One sampler of one run."""
    look, points = series.look, series.points
    below, above = [point.y - point.low for point in points], [point.high - point.y for point in points]
    axes.errorbar(
        [point.x for point in points], [point.y for point in points], (below, above), label=series.label,
        color=look.colour, linestyle=(0, look.dashes) if look.dashes else "-", marker=look.marker, markersize=6,
        markerfacecolor=look.colour if look.filled else "white", markeredgewidth=1.5, linewidth=1.6, capsize=3,
    )  # fmt: skip


def _front(axes: Any, chart: Chart) -> None:
    """The Pareto front, below the curves: between its points the better one is the slower."""
    if chart.front:
        x, y = [point.x for point in chart.front], [point.y for point in chart.front]
        axes.step(
            [*x, chart.x.high], [*y, y[-1]], where="post", color="0.8", linewidth=5, solid_capstyle="butt", zorder=0.5
        )


def _floor(axes: Any, floor: Floor) -> None:
    axes.axhline(floor.y, color="0.35", linewidth=1.0, linestyle=(0, (1, 2)))
    axes.annotate(
        floor.text, (0.99, floor.y), xycoords=("axes fraction", "data"), xytext=(0, 3 if floor.above else -3),
        textcoords="offset points", ha="right", va="bottom" if floor.above else "top", color="0.25", fontsize=9,
    )  # fmt: skip


def _scale(axis: Any, set_scale: Any, set_limits: Any, given: Axis) -> None:
    """The scale, the ends and the ticks of an axis."""
    from matplotlib.ticker import FixedLocator, FuncFormatter

    if given.log:
        set_scale("log")
    set_limits(given.low, given.high)
    axis.set_major_locator(FixedLocator(given.ticks))
    axis.set_minor_locator(FixedLocator(given.minor))
    axis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
    axis.set_minor_formatter(FuncFormatter(lambda value, place: ""))


def _words(axes: Any, chart: Chart) -> None:
    text = "\n".join(textwrap.fill(line, _WIDTH) for line in chart.notes)
    axes.text(0.0, -0.19, text, transform=axes.transAxes, fontsize=8.5, color="0.3", va="top")
    axes.set_xlabel(chart.x.label)
    axes.set_ylabel(chart.y.label)
    axes.set_title(chart.title, fontsize=11, loc="left")
    axes.grid(True, which="major", color="0.9", linewidth=0.7)
    axes.set_axisbelow(True)
