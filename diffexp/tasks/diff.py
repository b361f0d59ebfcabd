"""task=diff: how two configurations differ, key by key; recipes are composed, runs and checkpoints are read."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from diffexp.checkpoint.file import load
from diffexp.core.errors import ConfigError, nearest
from diffexp.launch.command import normalise
from diffexp.launch.compose import compose_jobs
from diffexp.launch.find import LATEST, find_folder, find_run
from diffexp.launch.folder import load_frozen
from diffexp.launch.layout import Layout, present_layout
from diffexp.tasks import console
from diffexp.tasks.build import Config

_IGNORED = ("task", "ckpt", "runs", "sweep", "a", "b", "paper.bibtex", "paper.results", "evaluation.references")
_WIDTH = 48  # letters of a value in one line
# Samplers hold the grid of the recipe: what differs there and in the same way is said once.
_COPIES = re.compile(r"(sampler|evaluation\.arms\.[^.]+)\.(?=grid\.)")


def main(config: Config) -> None:
    """Print what differs between `a` and `b`."""
    layout, scale = present_layout(), str(config["choices"]["scale"])
    pair = []
    for side in ("a", "b"):
        if config.get(side) is None:
            raise ConfigError(f"task=diff needs {side}=: a recipe, a run folder, a checkpoint, or {LATEST}<recipe>")
        pair.append(dict(_leaves(_configuration(side, str(config[side]), scale, str(config["runs"]), layout))))
    rows = differences(*pair)
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


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(key, value in a, value in b) where two flat configurations differ, sorted; "–" where there is no such key."""
    rows = {}
    for key in sorted({*a, *b}, key=lambda key: (key.split(".")[0], key)):
        if a.get(key, _MISSING) != b.get(key, _MISSING):
            rows[key] = (_spell(a.get(key, _MISSING)), _spell(b.get(key, _MISSING)))
    return [(key, *pair) for key, pair in rows.items() if not _repeats(key, pair, rows)]


_MISSING = object()


def _repeats(key: str, pair: tuple[str, str], rows: Mapping[str, tuple[str, str]]) -> bool:
    """Whether the line is that of the grid, or of the one sampler, once more."""
    original = _COPIES.sub("", key)
    return original != key and rows.get(original) == pair


def _leaves(node: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """(flat key, value); empty mappings are values."""
    for key, value in node.items():
        here = f"{path}{key}"
        if here in _IGNORED:
            continue
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{here}.")
        else:
            yield here, value


def _spell(value: object) -> str:
    """A value as it would stand in YAML, on one line."""
    if value is _MISSING:
        return "–"
    if isinstance(value, str):
        return " ".join(value.split()) or '""'
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).strip().removesuffix("...").strip()


def _table(rows: list[tuple[str, str, str]]) -> str:
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
