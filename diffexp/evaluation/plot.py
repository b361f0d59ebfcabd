"""Distance versus NFE: one line for each sampler with its range over the seeds, and the floor of real images."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffexp.core.files import atomic_path
from diffexp.evaluation.metric import meaning
from diffexp.evaluation.protocol import Protocol
from diffexp.evaluation.table import Summary

# Colours of equal lightness steps (legible without colour vision), with markers and dashes that do without colour.
_STYLES = (
    ("#0b3c6f", "o", "-"),
    ("#c4500b", "s", "--"),
    ("#2f8f5b", "^", "-."),
    ("#8a3fa0", "D", ":"),
    ("#b08900", "v", (0, (5, 1, 1, 1, 1, 1))),
    ("#555555", "P", (0, (1, 1))),
)
_SIZE = (6.4, 4.2)  # inches
_FLOOR = "real"
_WIDTH = 92  # letters in a line of the notes: a line that is wider than the figure leaves no room for the axes


def draw_distance(
    arms: Sequence[Summary], controls: Sequence[Summary], protocol: Protocol, path: Path, title: str = ""
) -> list[Path]:
    """Draw the curves of one protocol as PNG (150 dpi) and SVG; the same numbers give the same bytes.

    Args:
        arms: summaries of samplers.
        controls: summaries of controls; `real` becomes the floor, the others are named below the axes, where they
            cannot squash them.
        protocol: how everything was measured.
        path: path without suffix.
        title: the line above.

    Returns:
        the files written.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style = {"svg.hashsalt": "diffexp", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
    with matplotlib.rc_context(style):
        looks = _looks(arms)
        beside = _beside(list(looks))
        figure = Figure(figsize=(_SIZE[0] + beside, max(_SIZE[1], 1.6 + 0.19 * len(looks))), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        for label, look in looks.items():
            _curve(axes, [arm for arm in arms if arm.label == label], look)
        _floor(axes, controls, "the targets" if protocol.pairs else "held-out real images")
        _scale(axes, arms, controls)
        _words(axes, arms, controls, protocol, title)
        if beside:
            figure.legend(loc="outside right upper", frameon=False, fontsize=9)
        else:
            axes.legend(framealpha=0.85, edgecolor="none", ncols=2 if len(looks) > 4 else 1)
        files = [path.with_suffix(".png"), path.with_suffix(".svg")]
        for file in files:
            with atomic_path(file) as temporary:
                stamp = {"Software": None} if file.suffix == ".png" else {"Date": None}
                figure.savefig(temporary, format=file.suffix[1:], dpi=150, metadata=stamp)
    return files


@dataclass(frozen=True)
class _Look:
    """How a curve is drawn."""

    colour: Any
    marker: str
    dashes: Any
    filled: bool = False


def _looks(arms: Sequence[Summary]) -> dict[str, _Look]:
    """Label -> look. Of several runs with several samplers each, the colour is the run and the marker the sampler."""
    kinds = {arm.label: (arm.tag, arm.plain_label) for arm in arms}
    tags, samplers = (list(dict.fromkeys(kind[part] for kind in kinds.values())) for part in (0, 1))
    if len(tags) == 1 or len(samplers) == 1:
        colours = _colours(len(kinds))
        return {
            label: _Look(colours[place], *_STYLES[place % len(_STYLES)][1:], place // len(_STYLES) % 2 == 1)
            for place, label in enumerate(kinds)
        }
    colours = _colours(len(tags))
    looks = {}
    for label, (tag, sampler) in kinds.items():
        place = samplers.index(sampler)
        looks[label] = _Look(colours[tags.index(tag)], *_STYLES[place % len(_STYLES)][1:], place >= len(_STYLES))
    return looks


def _colours(count: int) -> list[Any]:
    """Colours that can be told apart: the six of the styles, or for more of them a scale from dark to light."""
    if count <= len(_STYLES):
        return [style[0] for style in _STYLES]
    import matplotlib

    return [matplotlib.colormaps["viridis"](0.92 * place / (count - 1)) for place in range(count)]


def _beside(labels: Sequence[str]) -> float:
    """Inches for a legend beside the axes; 0 where it has room in them."""
    longest = max(map(len, labels), default=0)
    return 0.0 if len(labels) <= 6 and longest <= 30 else 0.7 + 0.072 * longest


def _curve(axes: Any, arms: list[Summary], look: _Look) -> None:
    """One sampler of one run."""
    budgets, means = [arm.nfe for arm in arms], [arm.mean for arm in arms]
    below = [arm.mean - arm.minimum for arm in arms]
    above = [max(arm.values) - arm.mean for arm in arms]
    axes.errorbar(
        budgets, means, (below, above), label=arms[0].label, color=look.colour, linestyle=look.dashes,
        marker=look.marker, markersize=6, markerfacecolor=look.colour if look.filled else "white", markeredgewidth=1.5,
        linewidth=1.6, capsize=3,
    )  # fmt: skip


def _floor(axes: Any, controls: Sequence[Summary], what: str) -> None:
    for control in controls:
        if control.label == _FLOOR:
            level = "level" if control.meaning.higher else "floor"
            text = f"{level}: {what}, {control.meaning.spell(control.mean)}"
            axes.axhline(control.mean, color="0.35", linewidth=1.0, linestyle=(0, (1, 2)))
            axes.annotate(
                text, (0.99, control.mean), xycoords=("axes fraction", "data"), xytext=(0, -3),
                textcoords="offset points", ha="right", va="top", color="0.25", fontsize=9,
            )  # fmt: skip


def _scale(axes: Any, arms: Sequence[Summary], controls: Sequence[Summary]) -> None:
    """Ticks at the budgets that were run; the range is that of samplers and floor, for distances often logarithmic."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    budgets = sorted({arm.nfe for arm in arms})
    axes.set_xscale("log")
    axes.set_xlim(budgets[0] / 1.15, budgets[-1] * 1.15)
    kept: list[int] = []
    for budget in budgets:  # 9 beside 10 cannot both be written
        if not kept or budget > 1.2 * kept[-1]:
            kept.append(budget)
        elif budget % 5 == 0:
            kept[-1] = budget
    axes.xaxis.set_major_locator(FixedLocator(kept))
    axes.xaxis.set_minor_locator(FixedLocator(budgets))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, place: ""))
    values = [value for arm in arms for value in arm.values]
    if not arms[0].meaning.distance:
        values += [control.mean for control in controls if control.label == _FLOOR]
        pad = 0.15 * (max(values) - min(values)) or 0.05 * abs(max(values)) or 1.0
        axes.set_ylim(min(values) - pad, max(values) + pad)
        return
    # A floor that is next to nothing (all of the very reference) would squash the curves.
    values += [c.mean for c in controls if c.label == _FLOOR and c.mean > min(values) / 50]
    low, high = max(min(values), 1e-3), max(values)
    if high > 5 * low:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.5, high * 1.4)
        ticks = [base * 10.0**power for power in range(-3, 7) for base in (1, 2, 5)]
        axes.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if low / 1.5 <= tick <= high * 1.4]))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
    else:
        axes.set_ylim(0, high * 1.1)


def _words(
    axes: Any, arms: Sequence[Summary], controls: Sequence[Summary], protocol: Protocol, title: str
) -> None:
    seeds = max(len(arm.values) for arm in arms)
    others = ", ".join(f"{c.label} {c.meaning.spell(c.mean)}" for c in controls if c.label != _FLOOR)
    notes = [f"Bars: range over {seeds} seeds."] if seeds > 1 else []
    draws = max((len(c.values) for c in controls if c.label == _FLOOR), default=1)
    notes += [f"Floor: mean of {draws} draws that share images."] if draws > 1 and not protocol.pairs else []
    lines = [" ".join(notes), f"Other controls: {others}."] if others else [" ".join(notes)]
    text = "\n".join(textwrap.fill(line, _WIDTH) for line in lines if line)
    axes.text(0.0, -0.19, text, transform=axes.transAxes, fontsize=8.5, color="0.3", va="top")
    axes.set_xlabel("network evaluations per image (NFE)")
    better = "" if (said := meaning(protocol.metric)).distance else f", {said.better}"
    axes.set_ylabel(f"{protocol.metric} (n = {protocol.n:,}{better})")
    axes.set_title(title, fontsize=11, loc="left")
    axes.grid(True, which="major", color="0.9", linewidth=0.7)
    axes.set_axisbelow(True)
