"""The runs of a sweep, or those below any folder: what was asked of each, how it ended, what it measured."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from diffexp.core.errors import DiffexpError
from diffexp.evaluation.protocol import Protocol, Provenance, read_protocols, read_provenances
from diffexp.evaluation.results import RESULTS_FILE, Row, read_rows
from diffexp.launch.folder import CONFIG, STATUS, load_frozen, read_status
from diffexp.launch.lock import is_held
from diffexp.launch.sweep import JobRecord, read_sweep

TARGET = "._target_"
MOST_COLUMNS = 6
"""Settings that stand as columns of a table."""
_STEPS = "distillation.student_steps"
_FEW = 3
# Keys that say nothing about a run, or are columns of its results.
_SILENT = (
    "choices", "task", "runs", "ckpt", "pngs", "sweep", "base", "beside", "a", "b", "images", "paper", "sampler",
    "grid", "evaluation", "logger", "plugins",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One job of a sweep, or one run folder.

    Attributes:
        name: the job's number, or the folder's path below the one that is reported.
        settings: override key -> value, as text, for all that was said.
        state: waiting, running, ok, failed or preempted.
        message: one line.
        command: the words that run it again; empty when they are not known.
        folder: the run folder; None for a job that has none.
        config: its frozen configuration.
        rows, protocols, provenances: what it measured.
    """

    name: str
    settings: Mapping[str, str]
    state: str
    message: str = ""
    command: tuple[str, ...] = ()
    folder: Path | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    rows: Sequence[Row] = ()
    protocols: Mapping[str, Protocol] = field(default_factory=dict)
    provenances: Sequence[Provenance] = ()


def collect(folder: Path) -> list[Run]:
    """The jobs of a sweep folder, or the runs below another folder.

    Raises:
        DiffexpError: the folder is missing, is a run folder itself, or holds none; or a file is damaged.
    """
    if not folder.is_dir():
        raise DiffexpError(f"sweep={folder}: no such folder")
    jobs = read_sweep(folder)
    if jobs:
        return [_of_job(job, folder) for job in jobs]
    if (folder / CONFIG).is_file():
        raise DiffexpError(f"sweep={folder}: a run folder; its own report is made by task=report ckpt={folder}")
    runs = [path.parent for path in sorted(folder.rglob(STATUS)) if (path.parent / CONFIG).is_file()]
    if not runs:
        raise DiffexpError(f"sweep={folder}: no sweep, and no run folder below it")
    return _by_name([_of_folder(run, folder) for run in runs])


def varied(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """The keys that are not the same everywhere, in the order of their first appearance."""
    keys = dict.fromkeys(key for entry in settings for key in entry)
    return [key for key in keys if len({entry.get(key) for entry in settings}) > 1]


def telling(settings: Sequence[Mapping[str, str]], keys: Sequence[str]) -> list[str]:
    """As few of the keys as tell all settings apart, or all of them where there are few, or nothing less does.

    Runs of several recipes differ in dozens of keys: the recipe comes first, then the classes that were chosen. The
    students of a chain go by their steps, not by their teachers.
    """
    if _STEPS in keys:
        keys = [key for key in keys if key not in ("teacher", "training.max_steps", "optimizer.lr")]
    for name in ("experiment", "recipe", _STEPS):
        if name in keys and len({entry.get(name) for entry in settings}) == len(settings):
            return [name]
    if len(keys) <= _FEW:
        return list(keys)
    order = sorted(keys, key=lambda key: (key != "recipe", not key.endswith(TARGET), key.count("."), len(key)))
    for size in range(1, _FEW + 1):
        for chosen in itertools.combinations(order, size):
            if len({tuple(entry.get(key) for key in chosen) for entry in settings}) == len(settings):
                return list(chosen)
    return list(keys)


def _of_job(job: JobRecord, sweep: Path) -> Run:
    folder = None if job.folder is None else sweep / job.folder
    known = folder is not None and (folder / CONFIG).is_file()
    run = Run(str(job.number), _settings(job.overrides), job.state, job.message, job.overrides)
    return _filled(run, folder) if known and folder is not None else run


def _of_folder(folder: Path, below: Path) -> Run:
    status = read_status(folder)
    state, message = str(status.get("state")), str(status.get("message") or "")
    if state == "running" and not is_held(folder / "lock"):
        state, message = "failed", f"process {status.get('pid')} was killed"
    settings = dict(_flat(load_frozen(folder)))
    return _filled(Run(folder.relative_to(below).as_posix(), settings, state, message), folder)


def run_in(folder: Path) -> Run:
    """The run of one folder, whatever it is reported with."""
    return _of_folder(folder, folder.parent)


def _filled(run: Run, folder: Path) -> Run:
    """A run with what its folder holds."""
    config, rows = load_frozen(folder), read_rows(folder / RESULTS_FILE)
    return Run(
        run.name, run.settings, run.state, run.message, run.command, folder, config, rows,
        read_protocols(folder), read_provenances(folder),
    )  # fmt: skip


def _settings(words: Sequence[str]) -> dict[str, str]:
    """Overrides as key -> value; a key that is taken away has the value "–"."""
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not key.startswith("--") and key != "beside":
            found[key.lstrip("+~")] = value if equals and not key.startswith("~") else "–"
    return found


def _flat(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(flat key, value as text) of a configuration; the names of groups come first."""
    yield from ((key, str(name)) for key, name in (config.get("choices") or {}).items() if name is not None)
    yield from _leaves({key: value for key, value in config.items() if key not in _SILENT}, "")


def _by_name(runs: Sequence[Run]) -> list[Run]:
    """The runs without the values of groups that differ in their name: the name says it."""
    names = [key for key in varied([run.settings for run in runs]) if "." not in key]
    return [
        replace(
            run,
            settings={
                key: value for key, value in run.settings.items() if key in names or key.split(".")[0] not in names
            },
        )
        for run in runs
    ]


def _leaves(node: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    for key, value in node.items():
        here = f"{path}{key}"
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{here}.")
        else:
            yield here, str(value)


def command_line(words: Sequence[str]) -> str:
    """The command that runs a job again."""
    return shlex.join(["python", "-m", "diffexp", *words])


def first_protocol(rows: Sequence[Row]) -> str | None:
    """The protocol that a run is compared by: that of its first row; None without rows."""
    return next((row.protocol for row in rows if row.control is None), None)


def mixed(runs: Sequence[Run]) -> str | None:
    """Why runs do not belong in one table of distances; None where they do."""
    used = [run.protocols[name] for run in runs if (name := first_protocol(run.rows)) in run.protocols]
    other = next((protocol for protocol in used if protocol.hash != used[0].hash), None)
    if other is None:
        return None
    differs = "; ".join(used[0].difference(other))
    return f"Runs that were measured by different protocols are not compared: {differs}."
