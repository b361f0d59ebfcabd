"""The folder of a sweep, `<runs>/sweeps/<UTC time>-<id>`: one small file for each job, from which its report is made.

    job_<number>.json   number, overrides, folder (of the run), state, message, started, ended, pid

States: waiting, running, ok, failed, preempted. Hydra's own `hydra.sweep.dir` is this folder, so that the workers of
any launcher find it; the ranks of a job find their file by an environment variable.
"""

from __future__ import annotations

import json
import os
import shlex
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffexp.core.errors import ConfigError, DiffexpError
from diffexp.core.files import write_json_atomic
from diffexp.launch.folder import ending
from diffexp.launch.lock import is_alive, this_process
from diffexp.launch.text import one_line

if TYPE_CHECKING:
    from diffexp.launch.compose import Job

SWEEPS = "sweeps"
# Not part of a job's own command: what the entry adds by itself and would add again, and how the sweep is launched.
_ADDED = ("++evaluation.only=$", "hydra.", "hydra/", "+hydra", "~hydra")
_FILE = "DIFFEXP_SWEEP_JOB"  # environment: the file of the job that a process works on
_current: ContextVar[str | None] = ContextVar("file of the job", default=None)


@dataclass(frozen=True)
class JobRecord:
    """One job of a sweep.

    Attributes:
        number: its place in the sweep, from 0.
        overrides: the words that make it, as they would stand on a command line of its own.
        folder: its run folder, relative to the sweep's; None before it has one.
        state: waiting, running, ok, failed or preempted.
        message: one line for the reader.
        started, ended: UTC, ISO 8601.
        process: who runs it.
    """

    number: int
    overrides: tuple[str, ...]
    folder: str | None = None
    state: str = "waiting"
    message: str = ""
    started: str | None = None
    ended: str | None = None
    process: Mapping[str, Any] | None = None


WRITING = ("run", "train", "evaluate", "sample", "interpolate")
"""Tasks that leave something: sweeps of others have no folder."""


def _as_written(word: str) -> str:
    """An override as a person would write it: Hydra's sweeper gives what is taken away a value, null."""
    return word.removesuffix("=null") if word.startswith("~") else word


@contextmanager
def begin_sweep(jobs: Sequence[Job], prefix: Sequence[str] = ()) -> Iterator[Path]:
    """Make the folder of a sweep, with a waiting job for each of `jobs`; yields its absolute path.

    Args:
        jobs: composed and validated; the first one's key `runs` says where.
        prefix: words of the command that every job needs beside its overrides.

    Raises:
        ConfigError: the command names a folder for Hydra's sweeps.
        DiffexpError: the folder cannot be made.
    """
    for word in (word for job in jobs for word in job.overrides):
        if word.lstrip("+~").startswith(("hydra.sweep.dir=", "hydra.sweep.subdir=")):
            raise ConfigError(f"{word}: diffexp names the folder of a sweep itself, <runs>/{SWEEPS}/...; say runs=...")
    if not keeps_folder(jobs):
        with tempfile.TemporaryDirectory(prefix="diffexp-") as scratch:
            yield _fill(Path(scratch), jobs, prefix)
        return
    runs = jobs[0].config.get("runs") or "runs"
    stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S")
    path = Path(runs).absolute() / SWEEPS / f"{stamp}-{uuid.uuid4().hex[:6]}"
    try:
        path.mkdir(parents=True)
        _fill(path, jobs, prefix)
    except OSError as error:
        raise DiffexpError(f"runs={runs}: no sweep folder can be made there: {error}") from error
    yield path


def keeps_folder(jobs: Sequence[Job]) -> bool:
    """Whether a sweep leaves something to report."""
    return any(job.config.get("task") in WRITING for job in jobs)


def _fill(path: Path, jobs: Sequence[Job], prefix: Sequence[str]) -> Path:
    """Write the files of jobs that wait."""
    for number, job in enumerate(jobs):
        words = [_as_written(word) for word in job.overrides if not word.startswith(_ADDED)]
        _write(_file(path, number), JobRecord(number, (*prefix, *words)))
    return path


def read_sweep(path: Path) -> list[JobRecord]:
    """The jobs of a sweep folder, by number; empty when it is none. A job whose process is gone has failed.

    Raises:
        DiffexpError: a file is not what it should be.
    """
    return sorted((_settled(_read(file)) for file in path.glob("job_*.json")), key=lambda job: job.number)


def sweep_name() -> str | None:
    """The name of the sweep that this process works on a job of; None outside of sweeps."""
    file = _current.get() or os.environ.get(_FILE)
    return Path(file).parent.name if file else None


def note_folder(run: Path) -> None:
    """Let the sweep know the run folder of the job that this process works on; without effect outside of sweeps."""
    file = _current.get() or os.environ.get(_FILE)
    if file:
        _change(Path(file), folder=Path(os.path.relpath(run, Path(file).parent)).as_posix())


def note_process(pid: int) -> None:
    """Let the sweep know which process runs the job that this one only waits for; without effect outside of sweeps."""
    file = _current.get() or os.environ.get(_FILE)
    if file:
        _change(Path(file), process=this_process(pid))


def add_word(sweep: Path, number: int, word: str) -> None:
    """Complete the words that make a job by one that is known only now."""
    file = _file(sweep, number)
    _change(file, overrides=(*_read(file).overrides, word))


@contextmanager
def job_record(sweep: Path, number: int, overrides: Sequence[str]) -> Iterator[str]:
    """Keep the file of a job true while the block runs it: how it ends is what the block raises.

    Args:
        sweep: the sweep's folder.
        number: the job's place in it.
        overrides: what makes the job, where the sweep did not know it before.

    Yields:
        the words that make the job, for messages.
    """
    file = _file(sweep, number)
    before = os.environ.get(_FILE)
    words = _read(file).overrides if file.is_file() else tuple(overrides)
    _write(file, JobRecord(number, words, None, "running", "", _now(), None, this_process()))
    token = _current.set(str(file))
    os.environ[_FILE] = str(file)  # for the processes of its ranks
    try:
        yield shlex.join(words)
    except BaseException as error:
        state, message = ending(error)
        _change(file, state=state, message=one_line(message), ended=_now())
        raise
    else:
        _change(file, state="ok", ended=_now())
    finally:
        _current.reset(token)
        os.environ.pop(_FILE)
        if before is not None:
            os.environ[_FILE] = before


def _settled(job: JobRecord) -> JobRecord:
    """A job as it is now: a killed process could not write how it ended."""
    if job.state != "running" or (job.process and is_alive(job.process)):
        return job
    return replace(job, state="failed", message=f"process {(job.process or {}).get('pid')} was killed")


def _file(sweep: Path, number: int) -> Path:
    return sweep / f"job_{number:03d}.json"


def _read(file: Path) -> JobRecord:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return JobRecord(**{**found, "overrides": tuple(found["overrides"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DiffexpError(f"{file}: not the file of a job ({one_line(error)})") from error


def _change(file: Path, **changes: Any) -> None:
    _write(file, replace(_read(file), **changes))


def _write(file: Path, job: JobRecord) -> None:
    write_json_atomic(file, asdict(job))


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
