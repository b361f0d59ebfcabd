"""What `ckpt=` and `teacher=` may mean: a checkpoint file, a run folder, or `latest:<recipe>`; found, or refused."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffexp.core.errors import CheckpointError, ConfigError, nearest
from diffexp.core.naming import checkpoints
from diffexp.launch.folder import CHECKPOINTS, CONFIG, TRAINED_IN, load_frozen
from diffexp.launch.text import one_line

LATEST = "latest:"


def find_run(spec: str, runs: str | Path = "runs", key: str = "ckpt") -> tuple[Path | None, Path]:
    """Resolve `ckpt=` or `teacher=`.

    Args:
        spec: a checkpoint file, a run folder, or `latest:<recipe>`: the training of a recipe that saved last.
        runs: where run folders are.
        key: which of them, for messages.

    Returns:
        (run folder, checkpoint); the folder is None for a file that lies outside of any run folder, else the checkpoint
        compares equal to `newest(folder)` when it is that file.

    Raises:
        CheckpointError: nothing there; it says what was looked for and what there is.
    """
    if spec.startswith(LATEST):
        return _latest(spec, spec.removeprefix(LATEST), Path(runs), key)
    path = _named(spec, runs, key)
    run = _run_around(path)
    if path.is_file():
        return run, path if run is None else run / CHECKPOINTS / path.name
    checkpoint = newest(run or path)
    if checkpoint is None:
        raise CheckpointError(f"{key}={spec}: no checkpoint in it (looked for {CHECKPOINTS}/step_<number>.ckpt)")
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

    Also one whose `teacher` leads nowhere, or would not be asked.

    Raises:
        CheckpointError: see `find_run` (for task=report, `find_folder`); or the recipes differ.
        ConfigError: a teacher beside distillation=none.
    """
    if config.get("teacher") is not None:
        if not config.get("distillation"):
            raise ConfigError(f"teacher={config['teacher']}: has no effect beside distillation=none; choose cbt or cbd")
        find_run(str(config["teacher"]), str(config.get("runs") or "runs"), "teacher")
    if config.get("ckpt") is None:
        return
    spec, runs = str(config["ckpt"]), str(config.get("runs") or "runs")
    run = find_folder(spec, runs) if config.get("task") == "report" else find_run(spec, runs)[0]
    recipe = config.get("recipe")
    trained = load_frozen(run).get("recipe") if run is not None else recipe
    if recipe is not None and trained != recipe:
        raise CheckpointError(f"ckpt={config['ckpt']}: is of recipe '{trained}', not of '{recipe}'")


def newest(run: Path) -> Path | None:
    """The checkpoint of the highest step in a run folder, or the one elsewhere that the run evaluates; None if none."""
    own = checkpoints(run / CHECKPOINTS)
    if own or not (run / TRAINED_IN).is_file():
        return own[-1] if own else None
    try:
        where = json.loads((run / TRAINED_IN).read_text(encoding="utf-8"))
        folder, checkpoint = (where[key] and _tidy(run / where[key]) for key in ("folder", "checkpoint"))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{run / TRAINED_IN}: unreadable ({one_line(error)}); delete the folder") from error
    if checkpoint is not None:
        return checkpoint if checkpoint.is_file() else None
    others = checkpoints(folder / CHECKPOINTS) if folder is not None else []
    return others[-1] if others else None


def _tidy(path: Path) -> Path:
    """A path without "..", unless links make that another one."""
    tidy = Path(os.path.normpath(path))
    return tidy if tidy.exists() else path


def _named(spec: str, runs: str | Path, key: str = "ckpt") -> Path:
    """The file or folder that `ckpt=` names; CheckpointError when there is none."""
    path = Path(spec)
    if not path.exists():
        raise CheckpointError(f"{key}={spec}: no such file or folder; {_known(Path(runs))}")
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
    """Recipe -> its run folder with the checkpoint that was written last (names do not tell: they are fingerprints)."""
    found: dict[str, Path] = {}
    for recipe in sorted(runs.iterdir()) if runs.is_dir() else []:
        saved = [file[-1] for run in recipe.glob("*/") if (file := checkpoints(run / CHECKPOINTS))]
        if saved:
            found[recipe.name] = max(saved, key=_saved_at).parent.parent
    return found


def _saved_at(file: Path) -> tuple[int, str]:
    """When a file was written (0 when a live training has just removed it), and its name where times are equal."""
    try:
        return file.stat().st_mtime_ns, str(file)
    except FileNotFoundError:
        return 0, str(file)


def _latest(spec: str, recipe: str, runs: Path, key: str) -> tuple[Path, Path]:
    """The run of a recipe that saved a checkpoint last."""
    found = recipes(runs)
    checkpoint = newest(found[recipe]) if recipe in found else None
    if checkpoint is None:
        hint = f"; {nearest(recipe, found)}" if found else ", nor of any other recipe"
        raise CheckpointError(f"{key}={spec}: no run of '{recipe}' with a checkpoint in {runs}{hint}")
    return found[recipe], checkpoint


def _known(runs: Path) -> str:
    """Which recipes have checkpoints, as a hint."""
    found = recipes(runs)
    return f"runs with checkpoints: {', '.join(found)}" if found else f"no run in {runs} has a checkpoint yet"
