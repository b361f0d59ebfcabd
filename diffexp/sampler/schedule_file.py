"""Files of short noise schedules: what a search writes and `grid=file` reads.

JSON, so that they can be read, mailed and put under version control; numbers are written with all their digits.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from diffexp.core.errors import ConfigError
from diffexp.core.files import write_json_atomic

FORMAT = "diffexp-schedules/1"
NAME = "schedules.json"
"""The file's name in a run folder."""


@dataclass(frozen=True)
class Schedule:
    """One short schedule.

    Attributes:
        betas: the variances of its steps, each in (0, 1), counted from the data, where they are smallest.
        start: the guess that led to it, `alpha` and `beta` of the noisiest step; empty where there was none.
        mode: how it was found: the reverse step of the search, ddpm or ddim; None where there was no search.
        scores: what the judge said, by metric.
    """

    betas: tuple[float, ...]
    start: Mapping[str, float] = field(default_factory=dict)
    mode: str | None = None
    scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Its number of steps."""
        return len(self.betas)


@dataclass(frozen=True)
class ScheduleFile:
    """The schedules of one search, at most one for each number of steps.

    Attributes:
        process: name of the process on which they were found; their levels mean the same on every scalar process.
        schedules: by rising number of steps.
        judge: what they were judged by.
        made_by: the command or program that made them.
    """

    process: str
    schedules: tuple[Schedule, ...]
    judge: Mapping[str, Any] = field(default_factory=dict)
    made_by: str = ""


def check_betas(betas: Sequence[Any], where: str) -> tuple[float, ...]:
    """The betas of a schedule as floats.

    Args:
        betas: counted from the data.
        where: names them in errors.

    Raises:
        ConfigError: for an empty list, what is no number in (0, 1), or betas that fall.
    """
    if not betas:
        raise ConfigError(f"{where}=[]: name at least one beta, from the data on, e.g. {where}=[0.001,0.05,0.5]")
    for k, beta in enumerate(betas, start=1):
        if isinstance(beta, bool) or not isinstance(beta, (int, float)) or not 0.0 < beta < 1.0:
            raise ConfigError(f"{where}: beta_{k} = {beta}: a step's variance lies between 0 and 1")
    for k, (cleaner, noisier) in enumerate(pairwise(betas), start=1):
        if cleaner > noisier:
            raise ConfigError(
                f"{where}: beta_{k} = {cleaner:g} is above beta_{k + 1} = {noisier:g}: list them from the data on, "
                "where steps are smallest"
            )
    return tuple(float(beta) for beta in betas)


def write_schedules(path: str | Path, found: ScheduleFile) -> None:
    """Write schedules to `path`, atomically, by rising number of steps.

    Raises:
        ConfigError: for schedules that `read_schedules` would refuse; nothing is written.
    """
    ordered = sorted(found.schedules, key=lambda schedule: schedule.steps)
    lines = [{"steps": schedule.steps, **asdict(schedule)} for schedule in ordered]
    whole = {"format": FORMAT, "process": found.process, "schedules": lines}
    whole |= {"judge": dict(found.judge), "made_by": found.made_by}
    _parsed(whole, f"schedules of {path}")
    write_json_atomic(path, whole)


def read_schedules(path: str | Path, key: str = "grid.path") -> ScheduleFile:
    """The schedules of a file, or of the run folder that holds one.

    Args:
        path: where.
        key: which setting names it, for errors.

    Raises:
        ConfigError: a missing, damaged or foreign file, or schedules that are none; one line.
    """
    path, where = Path(path), f"{key}={path}"
    path = path / NAME if path.is_dir() else path
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{where}: no such file; task=search writes {NAME} into its run folder") from None
    except OSError as error:
        raise ConfigError(f"{where}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:  # no JSON, or not even text
        raise ConfigError(f"{where}: damaged, or no file of schedules: {' '.join(str(error).split())}") from None
    return _parsed(whole, where)


def _parsed(whole: Any, where: str) -> ScheduleFile:
    found = whole.get("format") if isinstance(whole, dict) else None
    if found != FORMAT:
        raise ConfigError(f"{where}: its format is {found!r}, not {FORMAT!r}")
    lines = whole.get("schedules")
    if not isinstance(lines, list) or not lines:
        raise ConfigError(f"{where}: holds no schedules")
    schedules = tuple(_schedule(line, f"{where}: schedule {place}") for place, line in enumerate(lines, start=1))
    steps = [schedule.steps for schedule in schedules]
    twice = next((n for k, n in enumerate(steps) if n in steps[:k]), None)
    if twice is not None:
        raise ConfigError(f"{where}: holds two schedules of {twice} steps; one for each number of steps is meant")
    judge = whole.get("judge")
    return ScheduleFile(
        str(whole.get("process", "")),
        tuple(sorted(schedules, key=lambda schedule: schedule.steps)),
        judge if isinstance(judge, dict) else {},
        str(whole.get("made_by", "")),
    )


def _schedule(line: Any, where: str) -> Schedule:
    betas = line.get("betas") if isinstance(line, dict) else None
    if not isinstance(betas, (list, tuple)):
        raise ConfigError(f"{where}: has no list of betas")
    checked = check_betas(betas, f"{where}, betas")
    if line.get("steps") != len(checked):
        raise ConfigError(f"{where}: says steps={line.get('steps')}, and has {len(checked)} betas")
    mode = line.get("mode")
    return Schedule(
        checked,
        _numbers(line.get("start"), f"{where}, start"),
        None if mode is None else str(mode),
        _numbers(line.get("scores"), f"{where}, scores"),
    )


def _numbers(node: Any, where: str) -> dict[str, float]:
    """A mapping from names to finite numbers; none is an empty one."""
    node = {} if node is None else node
    values = node.values() if isinstance(node, Mapping) else [None]
    if any(isinstance(value, bool) or not isinstance(value, (int, float)) for value in values):
        raise ConfigError(f"{where}: should map names to numbers")
    if not all(math.isfinite(value) for value in values):
        raise ConfigError(f"{where}: holds a number that is not finite")
    return {str(name): float(value) for name, value in node.items()}
