"""What a chart shows, before anybody draws it: `plot.py` makes files of it, `vector.py` the drawing in a page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from diffexp.evaluation.metric import meaning
from diffexp.evaluation.protocol import Protocol
from diffexp.evaluation.table import FLOORS, Summary

# Colours of equal lightness steps (legible without colour vision), with markers and dashes that do without colour.
# Dashes are lengths of strokes and gaps, in widths of the line.
_STYLES = (
    ("#0b3c6f", "o", ()),
    ("#c4500b", "s", (4.0, 2.0)),
    ("#2f8f5b", "^", (6.0, 2.0, 1.5, 2.0)),
    ("#8a3fa0", "D", (1.2, 1.8)),
    ("#a07c00", "v", (6.0, 1.5, 1.2, 1.5, 1.2, 1.5)),
    ("#555555", "P", (2.5, 1.2)),
)
_FLOOR_TEXT = {"real": "held-out real images", "held_out": "held-out images, drawn with replacement"}


@dataclass(frozen=True)
class Look:
    """How a series is drawn: marker is one of ``o s ^ D v P``."""

    colour: str
    marker: str
    dashes: tuple[float, ...] = ()
    filled: bool = False


@dataclass(frozen=True)
class Point:
    """A mean with its range over the seeds, and the words for it."""

    x: float
    y: float
    low: float
    high: float
    text: str


@dataclass(frozen=True)
class Series:
    """One sampler of one run: points from left to right, joined."""

    label: str
    look: Look
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Floor:
    """A horizontal line that says how low one can get; its words stand above or below it."""

    y: float
    text: str
    above: bool = False


@dataclass(frozen=True)
class Axis:
    """An axis: its words, its ends, and where the ticks are; those of `minor` have no number."""

    label: str
    low: float
    high: float
    log: bool
    ticks: tuple[float, ...]
    minor: tuple[float, ...] = ()

    def place(self, value: float) -> float:
        """Where a value is: 0 at the low end, 1 at the high end; values beyond an end are at it."""
        value = min(max(value, self.low), self.high)
        low, high, here = (math.log(part) if self.log else part for part in (self.low, self.high, value))
        return (here - low) / (high - low)


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        name: what it is, in a few words.
        title: of which runs.
        notes: lines below it.
        front: points of which no other is better in both directions, from left to right; none where that is no matter.
    """

    name: str
    title: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    floors: tuple[Floor, ...]
    notes: tuple[str, ...]
    front: tuple[Point, ...] = ()


def distance_chart(arms: Sequence[Summary], controls: Sequence[Summary], protocol: Protocol, title: str = "") -> Chart:
    """Distance versus NFE: one line for each sampler with its range over the seeds, and the floor of real images.

    Args:
        arms: summaries of samplers.
        controls: summaries of controls; `real` and `held_out` become floors, the others are named below, where they
            cannot squash the axes.
        protocol: how everything was measured.
        title: names of the runs.
    """
    what = "Distance" if meaning(protocol.metric).distance else protocol.metric
    budgets = sorted({float(arm.nfe) for arm in arms if arm.nfe is not None})
    x = Axis(
        "network evaluations per image (NFE)", budgets[0] / 1.15, budgets[-1] * 1.15, True, _apart(budgets),
        tuple(budgets),
    )  # fmt: skip
    y = value_axis(arms, controls, protocol)
    series = make_series(arms, lambda arm: float(arm.nfe or 0))
    return Chart(
        f"{what} versus NFE", title, x, y, series, floors(controls, protocol, y), notes(arms, controls, protocol)
    )


def make_series(arms: Sequence[Summary], across: Callable[[Summary], float]) -> tuple[Series, ...]:
    """One series for each label; `across(arm)` is a point's place on the horizontal axis."""
    return tuple(
        Series(label, look, tuple(point(arm, across(arm)) for arm in arms if arm.label == label))
        for label, look in looks(arms).items()
    )


def point(arm: Summary, x: float) -> Point:
    """An arm at the place `x`."""
    time = "" if arm.seconds is None else f", {1000 * arm.seconds:.3g} ms per image"
    spread = "" if arm.spread is None else f" ± {arm.meaning.spell(arm.spread)}"
    text = f"{arm.label}, NFE {arm.nfe:g}: {arm.meaning.spell(arm.mean)}{spread}{time}"
    return Point(x, arm.mean, arm.minimum, arm.maximum, text)


def _apart(budgets: Sequence[float]) -> tuple[float, ...]:
    """The budgets that can be written: 9 beside 10 cannot both be."""
    kept: list[float] = []
    for budget in budgets:
        if not kept or budget > 1.2 * kept[-1]:
            kept.append(budget)
        elif budget % 5 == 0:
            kept[-1] = budget
    return tuple(kept)


def value_axis(arms: Sequence[Summary], controls: Sequence[Summary], protocol: Protocol) -> Axis:
    """The axis of what was measured: the range is that of samplers and floors, for distances often logarithmic."""
    said = meaning(protocol.metric)
    better = "" if said.distance else f", {said.better}"
    label = f"{protocol.metric} (n = {protocol.n:,}{better})"
    values = [value for arm in arms for value in arm.values]
    if not said.distance:
        values += [c.mean for c in controls if c.label in FLOORS]
        pad = 0.15 * (max(values) - min(values)) or 0.05 * abs(max(values)) or 1.0
        return _linear(label, min(values) - pad, max(values) + pad)
    # A floor that is next to nothing (all of the very reference) would squash the curves.
    values += [c.mean for c in controls if c.label in FLOORS and c.mean > min(values) / 50]
    low, high = max(min(values), 1e-3), max(values)
    if high <= 5 * low:
        return _linear(label, 0.0, high * 1.1)
    low, high = low / 1.5, high * 1.4
    return Axis(label, low, high, True, log_ticks(low, high))


_ROUND = tuple(float(f"{base}e{power}") for power in range(-12, 13) for base in (1, 2, 5))


def log_ticks(low: float, high: float) -> tuple[float, ...]:
    """Ticks of a logarithmic axis: 1, 2 and 5 times powers of ten, or where those are few, equal steps."""
    ticks = tuple(tick for tick in _ROUND if low <= tick <= high)
    return ticks if len(ticks) > 2 else _even_ticks(low, high)


def _even_ticks(low: float, high: float) -> tuple[float, ...]:
    """Up to eight round numbers at equal distances."""
    step = next(step for step in _ROUND if (high - low) / step <= 7.0)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(float(f"{place * step:.9g}") for place in range(first, last + 1))


def _linear(label: str, low: float, high: float) -> Axis:
    return Axis(label, low, high, False, _even_ticks(low, high))


def floors(controls: Sequence[Summary], protocol: Protocol, y: Axis) -> tuple[Floor, ...]:
    """The floors that lie on the axis; of two, the higher one has its words above."""
    found = [c for c in controls if c.label in FLOORS and y.low <= c.mean <= y.high]
    names = {**_FLOOR_TEXT, "real": "the targets"} if protocol.pairs else _FLOOR_TEXT
    word = "level" if meaning(protocol.metric).higher else "floor"
    highest = max((c.mean for c in found), default=0.0)
    return tuple(
        Floor(c.mean, f"{word}: {names[c.label]}, {c.meaning.spell(c.mean)}", len(found) > 1 and c.mean == highest)
        for c in found
    )


def notes(arms: Sequence[Summary], controls: Sequence[Summary], protocol: Protocol) -> tuple[str, ...]:
    """What the bars are, what the floor is, and the controls that are no floors."""
    seeds = max(len(arm.values) for arm in arms)
    others = ", ".join(f"{c.label} {c.meaning.spell(c.mean)}" for c in controls if c.label not in FLOORS)
    first = [f"Bars: range over {seeds} seeds."] if seeds > 1 else []
    draws = max((len(c.values) for c in controls if c.label == "real"), default=1)
    first += [f"Floor: mean of {draws} draws that share images."] if draws > 1 and not protocol.pairs else []
    lines = [" ".join(first), f"Other controls: {others}." if others else ""]
    return tuple(line for line in lines if line)


def looks(arms: Sequence[Summary]) -> dict[str, Look]:
    """Label -> look. Of several runs with several samplers each, colour and dashes are the run, markers samplers."""
    kinds = {arm.label: (arm.tag, arm.plain_label) for arm in arms}
    tags, samplers = (list(dict.fromkeys(kind[part] for kind in kinds.values())) for part in (0, 1))
    if len(tags) == 1 or len(samplers) == 1:
        colours = _colours(len(kinds))
        return {
            label: Look(colours[place], *_STYLES[place % len(_STYLES)][1:], place // len(_STYLES) % 2 == 1)
            for place, label in enumerate(kinds)
        }
    colours = _colours(len(tags))
    found = {}
    for label, (tag, sampler) in kinds.items():
        run, kind = tags.index(tag), samplers.index(sampler)
        marker, dashes = _STYLES[kind % len(_STYLES)][1], _STYLES[run % len(_STYLES)][2]
        found[label] = Look(colours[run], marker, dashes, (kind // len(_STYLES) + run // len(_STYLES)) % 2 == 1)
    return found


def _colours(count: int) -> list[str]:
    """Colours that can be told apart: the six of the styles, or for more of them a scale from dark to light."""
    if count <= len(_STYLES):
        return [style[0] for style in _STYLES]
    import matplotlib
    from matplotlib.colors import to_hex

    return [to_hex(matplotlib.colormaps["viridis"](0.92 * place / (count - 1))) for place in range(count)]
