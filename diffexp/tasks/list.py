"""task=list: one line for each recipe: paper, data, parameters, best published row; nothing is read or written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from diffexp.core.errors import DiffexpError
from diffexp.launch.command import normalise
from diffexp.launch.compose import compose_jobs
from diffexp.launch.layout import Layout, present_layout
from diffexp.tasks import console
from diffexp.tasks.build import Config, make

_SHORT = 34  # letters of a paper's title


def main(config: Config) -> None:
    """Print the recipes of the conf folders, at the scale of the command."""
    layout = present_layout()
    rows = [("recipe", "paper", "data", "parameters", "best published row")]
    counts: dict[str, str] = {}
    for recipe in layout.choices.get("experiment", ()):
        rows.append(_line(recipe, str(config["choices"]["scale"]), layout, counts))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = (zip(row, widths, strict=True) for row in rows)
    console.say("\n".join("  ".join(cell.ljust(width) for cell, width in cells).rstrip() for cells in padded))


def _line(recipe: str, scale: str, layout: Layout, counts: dict[str, str]) -> tuple[str, ...]:
    """One recipe; what is wrong with it stands in its line, the others are listed all the same."""
    try:
        (job,) = compose_jobs([normalise([f"experiment={recipe}", f"scale={scale}"], layout)], layout)
        paper = job.config.get("paper") or {}
        data = job.choices.get("dataset") or "?"
        return recipe, _paper(paper), data, _parameters(job.config, counts), best_row(paper)
    except DiffexpError as error:
        return recipe, f"cannot be composed: {error}", "", "", ""


def _paper(paper: Mapping[str, Any]) -> str:
    """Short title and arXiv id."""
    title = str(paper.get("title") or "")
    if not title:
        return "none"
    short = title.partition(":")[0]
    if len(short) > _SHORT:
        short = short[: _SHORT - 1].rsplit(" ", 1)[0] + "…"
    return f"{short} ({paper['arxiv']})" if paper.get("arxiv") else short


def _parameters(config: Config, counts: dict[str, str]) -> str:
    """Number of trained parameters; networks that recipes share are built once, without memory."""
    try:
        process, head, network, dataset = (make(config, key) for key in ("process", "prediction", "network", "dataset"))
        channels, height, _ = process.state_shape(tuple(dataset.shape))
        sizes = channels, head.out_channels(channels), height, dataset.num_classes
        known = f"{config['network']} {sizes} {(config.get('distillation') or {}).get('schedule_network')}"
        if known not in counts:
            with torch.device("meta"):
                built = network.build(*sizes)
                if config.get("distillation"):
                    built = make(config, "distillation").dressed(built, tuple(dataset.shape))
            counts[known] = spell_count(sum(weight.numel() for weight in built.parameters() if weight.requires_grad))
        return counts[known]
    except DiffexpError as error:
        return f"? ({error})"


def spell_count(count: int) -> str:
    """A number of parameters as people say it: ``107.6 M``."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.1f} {letter}"
    return str(count)


def best_row(paper: Mapping[str, Any]) -> str:
    """The lowest published FID with what it took, as text; what is printed as a bound (">100") is none."""
    rows = [row for row in paper.get("results") or () if str(row.get("metric", "")).upper().startswith("FID")]
    known = [row for row in rows if isinstance(row.get("value"), (int, float)) and not isinstance(row["value"], bool)]
    if not known:
        return "none published" if not rows else "unknown"
    best = min(known, key=lambda row: (row["value"], row["nfe"]))
    return (
        f"{best['metric']} {best['value']:g} on {best['dataset']}: {best['sampler']}, NFE {best['nfe']} "
        f"(table {best['table']})"
    )
