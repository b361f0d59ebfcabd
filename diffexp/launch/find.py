"""What `ckpt=` may mean: a checkpoint file, a run folder, or `latest:<recipe>`; found, or refused in one line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffexp.core.errors import CheckpointError, nearest
from diffexp.core.naming import checkpoints
from diffexp.launch.folder import CHECKPOINTS, CONFIG, load_frozen

LATEST = "latest:"


def find_run(spec: str, runs: str | Path = "runs") -> tuple[Path | None, Path]:
    """Resolve `ckpt=`.

    Args:
        spec: a checkpoint file, a run folder, or `latest:<recipe>`: the newest run of a recipe that has a checkpoint.
        runs: where run folders are.

    Returns:
        (run folder, checkpoint); the folder is None for a file that lies outside of any run folder.

    Raises:
        CheckpointError: nothing there; it says what was looked for and what there is.
    """
    if spec.startswith(LATEST):
        return _latest(spec, spec.removeprefix(LATEST), Path(runs))
    path = Path(spec)
    if path.is_file():
        return run_of(path), path
    if path.is_dir():
        folder = path.parent if path.name == CHECKPOINTS and (path.parent / CONFIG).is_file() else path
        checkpoint = newest(folder)
        if checkpoint is None:
            raise CheckpointError(f"ckpt={spec}: no checkpoint in it (looked for {CHECKPOINTS}/step_<number>.ckpt)")
        return (folder if (folder / CONFIG).is_file() else None), checkpoint
    raise CheckpointError(f"ckpt={spec}: no such file or folder; {_known(Path(runs))}")


def check_checkpoint(config: Mapping[str, Any]) -> None:
    """Refuse a configuration whose `ckpt` leads nowhere, or to a run of another recipe (as far as a run folder tells).

    Raises:
        CheckpointError: see `find_run`; or the recipes differ.
    """
    if config.get("ckpt") is None:
        return
    run, _ = find_run(str(config["ckpt"]), str(config.get("runs") or "runs"))
    recipe = config.get("recipe")
    trained = load_frozen(run).get("recipe") if run is not None else recipe
    if recipe is not None and trained != recipe:
        raise CheckpointError(f"ckpt={config['ckpt']}: is of recipe '{trained}', not of '{recipe}'")


def newest(run: Path) -> Path | None:
    """The checkpoint of the highest step in a run folder, or None."""
    found = checkpoints(run / CHECKPOINTS)
    return found[-1] if found else None


def run_of(checkpoint: Path) -> Path | None:
    """The run folder that a checkpoint lies in, or None."""
    folder = checkpoint.absolute().parent
    return folder.parent if folder.name == CHECKPOINTS and (folder.parent / CONFIG).is_file() else None


def recipes(runs: Path) -> dict[str, Path]:
    """Recipe -> its newest run folder with a checkpoint."""
    found: dict[str, Path] = {}
    for recipe in sorted(runs.iterdir()) if runs.is_dir() else []:
        folders = sorted((path for path in recipe.iterdir() if path.is_dir()), reverse=True) if recipe.is_dir() else []
        latest = next((path for path in folders if newest(path) is not None), None)
        if latest is not None:
            found[recipe.name] = latest
    return found


def _latest(spec: str, recipe: str, runs: Path) -> tuple[Path, Path]:
    """The newest run of a recipe that has a checkpoint."""
    found = recipes(runs)
    checkpoint = newest(found[recipe]) if recipe in found else None
    if checkpoint is None:
        hint = nearest(recipe, found) if found else _known(runs)
        raise CheckpointError(f"ckpt={spec}: no run of '{recipe}' with a checkpoint in {runs}; {hint}")
    return found[recipe], checkpoint


def _known(runs: Path) -> str:
    """Which recipes have checkpoints, as a hint."""
    found = recipes(runs)
    return f"runs with checkpoints: {', '.join(found)}" if found else "there is none yet"
