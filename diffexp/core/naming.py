"""Names of checkpoint files. No "=" in them: Hydra's grammar would want such a path in quotes on the command line."""

from __future__ import annotations

import re
from pathlib import Path

_NAME = re.compile(r"step_(\d{8,})\.ckpt")


def checkpoint_name(step: int) -> str:
    """File name of the state after `step` optimiser steps, e.g. ``step_00001234.ckpt``."""
    return f"step_{step:08d}.ckpt"


def step_of(path: str | Path) -> int | None:
    """The step in a name made by `checkpoint_name`, else None (temporary and foreign files)."""
    match = _NAME.fullmatch(Path(path).name)
    return int(match[1]) if match else None


def checkpoints(folder: str | Path) -> list[Path]:
    """The checkpoints in `folder`, oldest step first; unfinished (temporary, empty) files do not count."""
    found = [(step, path) for path in Path(folder).glob("step_*.ckpt") if (step := step_of(path)) is not None]
    return [path for _, path in sorted(found) if path.is_file() and path.stat().st_size > 0]
