"""task=diff: how two configurations differ, key by key; recipes are composed, runs and checkpoints are read."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from diffexp.checkpoint.file import load
from diffexp.core.errors import ConfigError, nearest
from diffexp.launch.command import normalise
from diffexp.launch.compose import compose_jobs
from diffexp.launch.difference import flat, table_of
from diffexp.launch.find import LATEST, find_folder, find_run
from diffexp.launch.folder import load_frozen
from diffexp.launch.layout import Layout, present_layout
from diffexp.tasks import console
from diffexp.tasks.build import Config

_WIDTH = 48  # letters of a value in one line


def main(config: Config) -> None:
    """Print what differs between `a` and `b`."""
    layout, scale = present_layout(), str(config["choices"]["scale"])
    pair = []
    for side in ("a", "b"):
        if config.get(side) is None:
            raise ConfigError(f"task=diff needs {side}=: a recipe, a run folder, a checkpoint, or {LATEST}<recipe>")
        pair.append(flat(_configuration(side, str(config[side]), scale, str(config["runs"]), layout)))
    rows = table_of(pair)
    if not rows:
        console.say(f"{config['a']} and {config['b']}: no difference")
        return
    console.say(f"a: {config['a']}\nb: {config['b']}\n\n{_table([('key', 'a', 'b'), *rows])}")


def _configuration(side: str, spec: str, scale: str, runs: str, layout: Layout) -> Mapping[str, Any]:
    """The configuration that `a=` or `b=` names; ConfigError and CheckpointError name the nearest recipe."""
    recipes = layout.choices.get("experiment", ())
    recipe, at, own = spec.partition("@")
    if recipe in recipes:
        words = normalise([f"experiment={recipe}", f"scale={own if at else scale}"], layout)
        return compose_jobs([words], layout)[0].config
    path = Path(spec)
    if path.is_file():
        return yaml.safe_load(load(path)["config"])
    if spec.startswith(LATEST):
        return load_frozen(find_run(spec, runs)[0] or "")
    if path.is_dir():
        return load_frozen(find_folder(spec, runs))
    raise ConfigError(f"{side}={spec}: neither a recipe nor a run folder or checkpoint; {nearest(recipe, recipes)}")


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Three columns; long values go on in the next line, and a blank line parts two groups."""
    cells = [[textwrap.wrap(cell, _WIDTH) or [""] for cell in row] for row in rows]
    widths = [max(len(line) for row in cells for line in row[column]) for column in range(3)]
    lines, group = [], ""
    for (key, *_), row in zip(rows, cells, strict=True):
        if key.split(".")[0] != group and "." in key:
            lines.append("")
        group = key.split(".")[0]
        for number in range(max(map(len, row))):
            parts = (part[number] if number < len(part) else "" for part in row)
            lines.append("  ".join(part.ljust(width) for part, width in zip(parts, widths, strict=True)).rstrip())
    return "\n".join(lines)
