"""Distance versus NFE: one line for each sampler with its range over the seeds, and the floor of real images."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffexp.core.files import atomic_path
from diffexp.evaluation.protocol import Protocol
from diffexp.evaluation.table import Summary, spell

# Colours of equal lightness steps (legible without colour vision), with markers and dashes that do without colour.
_STYLES = (
    ("#0b3c6f", "o", "-"),
    ("#c4500b", "s", "--"),
    ("#2f8f5b", "^", "-."),
    ("#8a3fa0", "D", ":"),
    ("#b08900", "v", (0, (5, 1, 1, 1, 1, 1))),
    ("#555555", "P", (0, (1, 1))),
)
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
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        labels = list(dict.fromkeys(arm.label for arm in arms))
        for place, label in enumerate(labels):
            _curve(axes, [arm for arm in arms if arm.label == label], place)
        _floor(axes, controls)
        _scale(axes, arms, controls)
        _words(axes, arms, controls, protocol, title)
        files = [path.with_suffix(".png"), path.with_suffix(".svg")]
        for file in files:
            with atomic_path(file) as temporary:
                stamp = {"Software": None} if file.suffix == ".png" else {"Date": None}
                figure.savefig(temporary, format=file.suffix[1:], dpi=150, metadata=stamp)
    return files


def _curve(axes: Any, arms: list[Summary], place: int) -> None:
    """One sampler; `place` picks its look (the seventh repeats the first with filled markers)."""
    colour, marker, dashes = _STYLES[place % len(_STYLES)]
    filled = place // len(_STYLES) % 2 == 1
    budgets, means = [arm.nfe for arm in arms], [arm.mean for arm in arms]
    below = [arm.mean - arm.minimum for arm in arms]
    above = [max(arm.values) - arm.mean for arm in arms]
    axes.errorbar(
        budgets, means, (below, above), label=arms[0].label, color=colour, linestyle=dashes,
        marker=marker, markersize=6, markerfacecolor=colour if filled else "white", markeredgewidth=1.5, linewidth=1.6,
        capsize=3,
    )  # fmt: skip


def _floor(axes: Any, controls: Sequence[Summary]) -> None:
    for control in controls:
        if control.label == _FLOOR:
            text = f"floor: held-out real images, {spell(control.mean)}"
            axes.axhline(control.mean, color="0.35", linewidth=1.0, linestyle=(0, (1, 2)))
            axes.annotate(
                text, (0.99, control.mean), xycoords=("axes fraction", "data"), xytext=(0, -3),
                textcoords="offset points", ha="right", va="top", color="0.25", fontsize=9,
            )  # fmt: skip


def _scale(axes: Any, arms: Sequence[Summary], controls: Sequence[Summary]) -> None:
    """Logarithmic axes with ticks at the budgets that were run; the range is that of samplers and floor."""
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
    values = [value for arm in arms for value in arm.values] + [c.mean for c in controls if c.label == _FLOOR]
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
    others = ", ".join(f"{c.label} {spell(c.mean)}" for c in controls if c.label != _FLOOR)
    notes = [f"Bars: range over {seeds} seeds."] if seeds > 1 else []
    draws = max((len(c.values) for c in controls if c.label == _FLOOR), default=1)
    notes += [f"Floor: mean of {draws} draws that share images."] if draws > 1 else []
    lines = [" ".join(notes), f"Other controls: {others}."] if others else [" ".join(notes)]
    text = "\n".join(textwrap.fill(line, _WIDTH) for line in lines if line)
    axes.text(0.0, -0.19, text, transform=axes.transAxes, fontsize=8.5, color="0.3", va="top")
    axes.set_xlabel("network evaluations per image (NFE)")
    axes.set_ylabel(f"{protocol.metric} (n = {protocol.n:,})")
    axes.set_title(title, fontsize=11, loc="left")
    axes.grid(True, which="major", color="0.9", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.legend(framealpha=0.85, edgecolor="none", ncols=2 if len({arm.label for arm in arms}) > 4 else 1)
