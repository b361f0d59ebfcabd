"""How configurations differ, key by key."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

# What a command does with a configuration, and what a paper says, is no part of it.
_IGNORED = (
    "task", "ckpt", "images", "runs", "sweep", "a", "b", "paper.bibtex", "paper.results", "evaluation.references",
)  # fmt: skip
# Samplers hold the grid of the recipe: what differs there and in the same way is said once.
_COPIES = re.compile(r"(sampler|evaluation\.arms\.[^.]+)\.(?=grid\.)")
_MISSING = object()


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as flat key -> value; an empty mapping is a value."""
    return dict(_leaves(config, ""))


def table_of(configs: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """(key, value in the first, value in the second, ...) where flat configurations differ, sorted by groups.

    A value is spelled as in YAML, on one line; "–" where there is no such key.
    """
    rows = {}
    for key in sorted({key for config in configs for key in config}, key=lambda key: (key.split(".")[0], key)):
        values = [config.get(key, _MISSING) for config in configs]
        if any(value != values[0] for value in values):
            rows[key] = tuple(map(_spell, values))
    return [(key, *values) for key, values in rows.items() if not _repeats(key, values, rows)]


def _repeats(key: str, values: tuple[str, ...], rows: Mapping[str, tuple[str, ...]]) -> bool:
    """Whether the line is that of the grid, or of the one sampler, once more."""
    original = _COPIES.sub("", key)
    return original != key and rows.get(original) == values


def _leaves(node: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        here = f"{path}{key}"
        if here in _IGNORED:
            continue
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{here}.")
        else:
            yield here, value


def _spell(value: object) -> str:
    if value is _MISSING:
        return "–"
    if isinstance(value, str):
        return " ".join(value.split()) or '""'
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).strip().removesuffix("...").strip()
