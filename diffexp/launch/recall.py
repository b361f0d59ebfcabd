"""`ckpt=` alone is enough to go on with a run: its recipe and scale are those of the run folder."""

from __future__ import annotations

import os
from collections.abc import Sequence

from diffexp.launch.find import find_run
from diffexp.launch.folder import load_frozen

_KNOWN_TASKS = ("run", "train", "evaluate", "sample")


def recall(words: Sequence[str]) -> list[str]:
    """Overrides, completed with the recipe (and the scale, unless one is named) of the run that `ckpt=` names.

    What else was overridden when the run was trained has to be repeated: a difference that matters is refused later,
    by name.

    Args:
        words: normalised overrides.

    Returns:
        the overrides; unchanged when a recipe is named, no checkpoint is, or it lies in no run folder.

    Raises:
        CheckpointError: there is no such checkpoint.
    """
    given = dict(word.split("=", 1) for word in words if "=" in word)
    spec = given.get("ckpt", "null").strip("'\"")
    if "experiment" in given or spec == "null" or given.get("task", "run") not in _KNOWN_TASKS:
        return list(words)
    runs = given.get("runs", os.environ.get("DIFFEXP_RUNS", "runs")).strip("'\"")
    run, _ = find_run(spec, runs)
    if run is None:
        return list(words)
    frozen = load_frozen(run)
    recalled = [f"experiment={frozen['recipe']}"]
    if "scale" not in given:
        recalled.append(f"scale={frozen['choices']['scale']}")
    return [*recalled, *words]
