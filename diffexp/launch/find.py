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
        (run folder, checkpoint); the folder is None for a file that lies outside of any run folder, else the path of
        the checkpoint begins with it, so that it compares equal to `newest(folder)` when it is that file.

    Raises:
        CheckpointError: nothing there; it says what was looked for and what there is.
    """
    if spec.startswith(LATEST):
        return _latest(spec, spec.removeprefix(LATEST), Path(runs))
    path = _named(spec, runs)
    run = _run_around(path)
    if path.is_file():
        return run, path if run is None else run / CHECKPOINTS / path.name
    checkpoint = newest(run or path)
    if checkpoint is None:
        raise CheckpointError(f"ckpt={spec}: no checkpoint in it (looked for {CHECKPOINTS}/step_<number>.ckpt)")
    return run, checkpoint


def find_folder(spec: str, runs: str | Path = "runs") -> Path:
    """Resolve `ckpt=` for who needs only the run folder: unlike for `find_run`, a checkpoint need not be in it.

    Raises:
        CheckpointError: nothing there, or no run folder around it.
    """
    run = find_run(spec, runs)[0] if spec.startswith(LATEST) else _run_around(_named(spec, runs))
    if run is None:
        raise CheckpointError(f"ckpt={spec}: neither a run folder nor in one ({CONFIG} is missing)")
    return run


def check_checkpoint(config: Mapping[str, Any]) -> None:
    """Refuse a configuration whose `ckpt` leads nowhere, or to a run of another recipe (as far as a run folder tells).

    Raises:
        CheckpointError: see `find_run` (for task=report, `find_folder`); or the recipes differ.
    """
    if config.get("ckpt") is None:
        return
    spec, runs = str(config["ckpt"]), str(config.get("runs") or "runs")
    run = find_folder(spec, runs) if config.get("task") == "report" else find_run(spec, runs)[0]
    recipe = config.get("recipe")
    trained = load_frozen(run).get("recipe") if run is not None else recipe
    if recipe is not None and trained != recipe:
        raise CheckpointError(f"ckpt={config['ckpt']}: is of recipe '{trained}', not of '{recipe}'")


def newest(run: Path) -> Path | None:
    """The checkpoint of the highest step in a run folder, or None."""
    found = checkpoints(run / CHECKPOINTS)
    return found[-1] if found else None


def _named(spec: str, runs: str | Path) -> Path:
    """The file or folder that `ckpt=` names; CheckpointError when there is none."""
    path = Path(spec)
    if not path.exists():
        raise CheckpointError(f"ckpt={spec}: no such file or folder; {_known(Path(runs))}")
    return path


def _run_around(path: Path) -> Path | None:
    """The run folder that a path is or lies in (its `checkpoints` or a file there), or None.

    Relative where the path is and names it, so that messages show what the user wrote.
    """
    folder = path.parent if path.is_file() else path
    if (folder / CONFIG).is_file() and folder is path:
        return folder
    if folder.name in ("", ".."):  # e.g. "." or a file in the working folder: only the absolute path names its parent
        folder = folder.resolve()
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
        hint = f"; {nearest(recipe, found)}" if found else ", nor of any other recipe"
        raise CheckpointError(f"ckpt={spec}: no run of '{recipe}' with a checkpoint in {runs}{hint}")
    return found[recipe], checkpoint


def _known(runs: Path) -> str:
    """Which recipes have checkpoints, as a hint."""
    found = recipes(runs)
    return f"runs with checkpoints: {', '.join(found)}" if found else f"no run in {runs} has a checkpoint yet"
