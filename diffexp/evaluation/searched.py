"""Arms at the numbers of steps that a search has found: `nfe: searched`, and grids that read the run's own schedules.

Before a run has searched, such arms are not there: they are left out of its plan, and come in afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffexp.core.errors import ConfigError
from diffexp.evaluation.settings import Arm, Make, build_arms
from diffexp.sampler.schedule_file import read_schedules

SEARCHED = "searched"
"""What an arm says in place of budgets, or as one of them."""

FILE = "diffexp.sampler.grid_file.File"
"""The grid whose `path: null` is the run's own file."""


def with_searched(
    node: Mapping[str, Any], scale: str, path: Path | None, steps: Sequence[int]
) -> tuple[dict[str, Any], list[str]]:
    """A node `evaluation` whose arms have numbers in place of the word, and a file in place of null.

    Args:
        node: the resolved node.
        scale: the choice in the group `scale`: an arm may have budgets for each.
        path: the run's schedules; None: there are none yet.
        steps: numbers of steps that stand for the word, rising; none when there are no schedules yet.

    Returns:
        (the node, names of the arms that are left out, as they need what is not there yet).
    """
    arms, missing = {}, []
    for name, arm in (node.get("arms") or {}).items():
        wanted = _words(arm, scale)
        numbers = sorted({n for word in wanted for n in (steps if word == SEARCHED else [word])})
        idle = SEARCHED in wanted and not numbers and node.get("nfe") is None
        if path is None and (idle or reads_own_file(arm)):
            missing.append(name)
            continue
        filled = arm if path is None else with_file(arm, path)
        if SEARCHED in wanted:
            filled = {**filled, "nfe": {scale: numbers}}  # named for this very scale: `nfe_max` is for others
        arms[name] = filled
    return {**node, "arms": arms}, missing


def is_searched(arm: Mapping[str, Any], scale: str) -> bool:
    """Whether an arm has what a search finds among its budgets."""
    return SEARCHED in _words(arm, scale)


def _words(arm: Mapping[str, Any], scale: str) -> list[Any]:
    """The budgets of an arm at a scale, as a list; empty for none."""
    own = arm.get("nfe")
    budgets = own.get(scale) if isinstance(own, Mapping) else own
    return list(budgets) if isinstance(budgets, (list, tuple)) else [] if budgets is None else [budgets]


def reads_own_file(node: Any) -> bool:
    """Whether a grid anywhere in a node is the run's own file."""
    if not isinstance(node, Mapping):
        return False
    return _is_open(node) or any(reads_own_file(value) for value in node.values())


def with_file(node: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """A node whose grids read `path` where they have none of their own."""
    filled = {key: with_file(value, path) if isinstance(value, Mapping) else value for key, value in node.items()}
    return {**filled, "path": str(path)} if _is_open(node) else filled


def _is_open(node: Mapping[str, Any]) -> bool:
    return node.get("_target_") == FILE and node.get("path") is None


def thinned(steps: Sequence[int], shown: int | None) -> list[int]:
    """At most `shown` of some numbers >= 1, rising: with the ends, and evenly in their logarithm; None: all of them.

    Raises:
        ConfigError: for fewer than one.
    """
    found = sorted(set(steps))
    if shown is None or len(found) <= shown:
        return found
    if shown < 1:
        raise ConfigError(f"search.shown={shown}: must be at least 1, or null for all")
    if shown == 1:
        return found[-1:]
    low, high = math.log(found[0]), math.log(found[-1])
    kept: list[int] = []
    for k in range(shown):
        target = low + (high - low) * k / (shown - 1)
        # those that are left must do for the targets that are left
        free = [n for n in found if n > (kept[-1] if kept else 0)][: None if k == shown - 1 else k + 1 - shown]
        kept.append(min(free, key=lambda n: abs(math.log(n) - target)))
    return kept


def searched_arms(
    node: Mapping[str, Any],
    sampler: Mapping[str, Any],
    make: Make,
    scale: str,
    path: Path | None,
    shown: int | None = None,
) -> tuple[list[Arm], list[str]]:
    """The arms of an evaluation, see `settings.build_arms`, for a run with these schedules.

    Args:
        node, sampler, make, scale: as for `build_arms`.
        path: the run's schedules; None: there are none (yet).
        shown: how many of their numbers of steps stand for the word, see `thinned`.

    Returns:
        (arms, names of those that are left out until there are schedules); no arm at all when the only one that was
        asked for is left out.
    """
    steps = [] if path is None else thinned([found.steps for found in read_schedules(path).schedules], shown)
    filled, missing = with_searched(node, scale, path, steps)
    if path is not None:
        return build_arms(filled, with_file(sampler, path), make, scale), missing
    only = node.get("only")
    if missing and (only in missing or not filled["arms"]):
        return [], missing
    return build_arms(filled, sampler, make, scale), missing
