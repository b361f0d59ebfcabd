"""A chart as SVG inside a page: letters are letters, colours follow the page, and points say their numbers.

Every element has its colour as an attribute; the page's style sheet replaces it by class where the background is dark.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from diffexp.evaluation.chart import Axis, Chart, Look, Point, Series

_PAPER, _DARK = "#ffffff", "#15171a"
_LEFT, _RIGHT, _TOP, _BOTTOM = 14, 14, 26, 46  # pixels around the axes; the numbers of the left axis come on top
_LETTER, _SIZE = 6.6, 12  # width of a digit, height of letters
_MARKERS = {
    "s": ((-4, -4), (4, -4), (4, 4), (-4, 4)),
    "^": ((0, -5), (5, 4), (-5, 4)),
    "v": ((0, 5), (5, -4), (-5, -4)),
    "D": ((0, -5.5), (5.5, 0), (0, 5.5), (-5.5, 0)),
    "P": (
        (-2, -5), (2, -5), (2, -2), (5, -2), (5, 2), (2, 2), (2, 5), (-2, 5), (-2, 2), (-5, 2), (-5, -2), (-2, -2),
    ),
}  # fmt: skip


def draw(chart: Chart, width: int) -> str:
    """A chart as an SVG element of `width` pixels; its legend is `legend`."""
    frame = _Frame(chart, width)
    spoken = f"{chart.name}: {', '.join(series.label for series in chart.series)}. The tables hold the numbers."
    head = f'<svg class="chart" viewBox="0 0 {width} {frame.height}" role="img" aria-label="{escape(spoken)}">'
    parts = [head, *_axes(chart, frame), *_front(chart, frame), *_floors(chart, frame)]
    for series in chart.series:
        parts += _curve(series, frame)
    return "\n".join([*parts, "</svg>"])


def legend(chart: Chart) -> str:
    """The samples of all lines with their names, as a list."""
    return "\n".join(['<ul class="legend">', *(_entry(series) for series in chart.series), "</ul>"])


def contrast(one: str, other: str) -> float:
    """The contrast of two colours, 1 to 21 (WCAG 2.1)."""
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


class _Frame:
    """Where values are on a drawing."""

    def __init__(self, chart: Chart, width: int) -> None:
        self.chart, self.width, self.height = chart, width, round(max(260, 0.56 * width))
        longest = max((len(f"{tick:g}") for tick in chart.y.ticks), default=1)
        self.left, self.right = _LEFT + _LETTER * longest, width - _RIGHT
        self.top, self.bottom = _TOP, self.height - _BOTTOM

    def x(self, value: float) -> float:
        return round(self.left + self.chart.x.place(value) * (self.right - self.left), 1)

    def y(self, value: float) -> float:
        return round(self.bottom - self.chart.y.place(value) * (self.bottom - self.top), 1)


def _text(x: float, y: float, words: str, anchor: str = "start", kind: str = "t") -> str:
    place = f'x="{x:g}" y="{y:g}" text-anchor="{anchor}"'
    return f'<text class="{kind}" {place} font-size="{_SIZE}" fill="#333">{escape(words)}</text>'


def _line(x0: float, y0: float, x1: float, y1: float, kind: str, colour: str, more: str = "") -> str:
    return f'<path class="{kind}" d="M{x0:g} {y0:g}L{x1:g} {y1:g}" stroke="{colour}" fill="none"{more}/>'


def _axes(chart: Chart, frame: _Frame) -> Iterator[str]:
    """Grid, ticks, their numbers, and the words of both axes."""
    yield _text(2, 14, f"{chart.y.label}{', logarithmic' if chart.y.log else ''}")
    for tick in chart.y.ticks:
        yield _line(frame.left, frame.y(tick), frame.right, frame.y(tick), "g", "#e3e3e3")
        yield _text(frame.left - 6, frame.y(tick) + 4, f"{tick:g}", "end")
    for tick in {*chart.x.ticks, *chart.x.minor}:
        yield _line(frame.x(tick), frame.bottom, frame.x(tick), frame.bottom + 4, "a", "#555")
    for tick in _legible(chart.x, frame):
        yield _text(frame.x(tick), frame.bottom + 17, f"{tick:g}", "middle")
    yield _line(frame.left, frame.bottom, frame.right, frame.bottom, "a", "#555")
    yield _text((frame.left + frame.right) / 2, frame.height - 8, chart.x.label, "middle")


def _legible(axis: Axis, frame: _Frame) -> list[float]:
    """The ticks whose numbers have room beside each other."""
    kept: list[float] = []
    for tick in axis.ticks:
        if not kept or frame.x(tick) - frame.x(kept[-1]) > _LETTER * (len(f"{tick:g}") + len(f"{kept[-1]:g}")) / 2 + 8:
            kept.append(tick)
    return kept


def _front(chart: Chart, frame: _Frame) -> Iterator[str]:
    if chart.front:
        first, *others = chart.front
        path = f"M{frame.x(first.x):g} {frame.y(first.y):g}"
        path += "".join(f"H{frame.x(point.x):g}V{frame.y(point.y):g}" for point in others)
        yield f'<path class="front" d="{path}H{frame.right:g}" stroke="#d5d5d5" stroke-width="7" fill="none"/>'


def _floors(chart: Chart, frame: _Frame) -> Iterator[str]:
    for floor in chart.floors:
        y = frame.y(floor.y)
        yield _line(frame.left, y, frame.right, y, "floor", "#555", ' stroke-dasharray="1.5 3" stroke-width="1.3"')
        yield _text(frame.right, y - 6 if floor.above else y + 15, floor.text, "end", "t halo")


def _curve(series: Series, frame: _Frame) -> Iterator[str]:
    """One line with its bars and markers; each point tells its number where a mouse is."""
    places = " ".join(f"{frame.x(point.x):g},{frame.y(point.y):g}" for point in series.points)
    yield _group(series.look)
    yield f'<polyline points="{places}" stroke-width="1.7"{_dashes(series.look)}/>'
    for point in series.points:
        yield f"<g><title>{escape(point.text)}</title>{_bar(point, frame)}{_marker(series.look, frame, point)}</g>"
    yield "</g>"


def _group(look: Look) -> str:
    light, dark = _readable(look.colour, _PAPER, "#000000", 3.5), _readable(look.colour, _DARK, "#ffffff", 5.0)
    return f'<g class="s" style="--d:{dark}" stroke="{light}" fill="none">'


def _dashes(look: Look) -> str:
    return f' stroke-dasharray="{" ".join(f"{1.7 * dash:.3g}" for dash in look.dashes)}"' if look.dashes else ""


def _bar(point: Point, frame: _Frame) -> str:
    x, low, high = frame.x(point.x), frame.y(point.low), frame.y(point.high)
    if low - high < 1.0:
        return ""
    return f'<path d="M{x - 3:g} {low:g}h6m-3 0V{high:g}m-3 0h6" stroke-width="1.2"/>'


def _marker(look: Look, frame: _Frame | None = None, point: Point | None = None) -> str:
    x, y = (18.0, 7.0) if frame is None or point is None else (frame.x(point.x), frame.y(point.y))
    fill = _readable(look.colour, _PAPER, "#000000", 3.5) if look.filled else _PAPER
    style = f'class="{"m f" if look.filled else "m"}" fill="{fill}" stroke-width="1.6"'
    if look.marker == "o":
        return f'<circle cx="{x:g}" cy="{y:g}" r="4.3" {style}/>'
    places = " ".join(f"{x + dx:g},{y + dy:g}" for dx, dy in _MARKERS[look.marker])
    return f'<polygon points="{places}" {style}/>'


def _entry(series: Series) -> str:
    look = series.look
    line = f'<path d="M0 7H36" stroke-width="1.7"{_dashes(look)}/>'
    sample = f'<svg width="36" height="14" aria-hidden="true">{_group(look)}{line}{_marker(look)}</g></svg>'
    return f"<li>{sample}{escape(series.label)}</li>"


def _readable(colour: str, paper: str, towards: str, least: float) -> str:
    """The colour, moved towards black or white until lines of it stand out (WCAG 1.4.11 asks for a contrast of 3)."""
    for share in range(0, 101, 5):
        mixed = _mix(colour, towards, share / 100)
        if contrast(mixed, paper) >= least:
            return mixed
    return towards


def _mix(one: str, other: str, share: float) -> str:
    pairs = zip(_levels(one), _levels(other), strict=True)
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in pairs)


def _levels(colour: str) -> Sequence[int]:
    return [int(colour[place : place + 2], 16) for place in (1, 3, 5)]


def _luminance(colour: str) -> float:
    shares = [level / 255 for level in _levels(colour)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
