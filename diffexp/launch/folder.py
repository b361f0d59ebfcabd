"""A run folder, with all that is needed to run the same again.

    config.yaml     the resolved configuration, frozen
    versions.json   Python, packages, git revision
    status.json     running | ok | failed | preempted, with message, times and pid
    checkpoints/    step_00001234.ckpt
    training.json   in place of checkpoints, where the weights are those of another run: {"folder", "checkpoint"}
    lock            who writes here

Everything is written beside its name and renamed, so a kill leaves the old file or the new one. Names: `place`.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

from omegaconf import OmegaConf

import diffexp
from diffexp.core.errors import ConfigError, DiffexpError, PreemptedError
from diffexp.core.files import write_json_atomic, write_text_atomic
from diffexp.launch import plugins
from diffexp.launch.layout import read_yaml
from diffexp.launch.lock import Lock
from diffexp.launch.schema import check_targets

CONFIG = "config.yaml"
CHECKPOINTS = "checkpoints"
STATUS = "status.json"
TRAINED_IN = "training.json"
_PACKAGES = ("torch", "lightning", "torchmetrics", "numpy", "scipy", "hydra-core", "omegaconf", "safetensors")
_PREEMPTED = 143  # the exit code of a run that SIGTERM ended after it saved


class RunFolder:
    """A run folder that this process writes to: it holds the lock, and keeps status.json true.

    Use it in a `with` block: its begin writes `running`, its end `ok`, `failed` (with the error's first line) or
    `preempted`, and gives the lock back.

    Attributes:
        path: the folder.
        config: the frozen configuration; empty until there is one.
        message: what status.json says beside `ok`.
    """

    def __init__(self, path: Path, lock: Lock) -> None:
        self.path = path
        self.config: dict[str, Any] = load_frozen(path) if (path / CONFIG).is_file() else {}
        self.message = ""
        self._lock = lock
        self._started = _now()

    @classmethod
    def claim(cls, path: Path, job: str = "") -> RunFolder:
        """Take a folder, new or not; what a killed writer left unfinished in it is removed.

        Args:
            path: the folder.
            job: what it is taken for, for those who are refused meanwhile.

        Raises:
            LockedError: another live process writes there; its pid is named.
            ConfigError: its frozen configuration is unreadable.
            DiffexpError: the folder cannot be made or written.
        """
        lock = Lock(path / "lock", job)
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except OSError as error:
            raise DiffexpError(f"runs: no run folder can be made or written at {path}: {error}") from error
        try:
            _remove_drafts(path)
            return cls(path, lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Take a folder that is a run folder already; errors as for `claim`."""
        load_frozen(path)
        return cls.claim(path)

    def freeze(self, config: Mapping[str, Any]) -> None:
        """Write down what is run here, and with which versions."""
        self.config = dict(config)
        write_text_atomic(self.path / CONFIG, OmegaConf.to_yaml(OmegaConf.create(self.config)))
        write_json_atomic(self.path / "versions.json", versions())

    def refer(self, folder: Path | None, checkpoint: Path | None) -> None:
        """Write down that the weights of this run are kept elsewhere, by paths that hold when all runs are moved.

        Args:
            folder: the run that they were trained in; None when they lie in none.
            checkpoint: the file; None until the training is complete.
        """
        where = {"folder": folder, "checkpoint": checkpoint}
        relative = {key: path and Path(os.path.relpath(path, self.path)).as_posix() for key, path in where.items()}
        write_json_atomic(self.path / TRAINED_IN, relative)

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / CHECKPOINTS

    def write_status(self, state: str, message: str = "") -> None:
        """Write status.json.

        Args:
            state: running, ok, failed or preempted.
            message: one line for the reader.
        """
        status = {
            "state": state,
            "message": message,
            "started": self._started,
            "ended": None if state == "running" else _now(),
            "pid": os.getpid(),
        }
        write_json_atomic(self.path / STATUS, status)

    def release(self) -> None:
        """Give the lock back and leave everything as it is."""
        self._lock.release()

    def __enter__(self) -> RunFolder:
        try:
            self.write_status("running")
        except BaseException:
            self.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.write_status(*(ending(error) if error is not None else ("ok", self.message)))
        finally:
            self.release()


def load_frozen(run: str | Path) -> dict[str, Any]:
    """The frozen configuration of a run folder.

    Raises:
        ConfigError: there is none, it is unreadable, or a `_target_` in it leads out of the allowed packages.
    """
    path = Path(run) / CONFIG
    if not path.is_file():
        raise ConfigError(f"{run}: no run folder ({CONFIG} is missing)")
    config = read_yaml(path)
    try:
        check_targets(config)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return config


def read_status(run: Path) -> dict[str, Any]:
    """What status.json says; empty where there is none that can be read."""
    try:
        found = json.loads((run / STATUS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _remove_drafts(path: Path) -> None:
    """Remove what a killed writer left half-written. Nobody else writes here now; only locks may still be wanted."""
    for folder in (path, path / CHECKPOINTS):
        for draft in folder.glob(".*.tmp"):
            if not draft.name.startswith(".lock."):
                draft.unlink(missing_ok=True)


def versions() -> dict[str, Any]:
    """What the numbers depend on: Python, packages (read from their metadata, not imported), git revision, plugins."""
    return {**_versions(), **plugins.versions()}


@functools.cache
def _versions() -> Mapping[str, Any]:
    """The code that this process runs does not change; asking git takes longer than all else that is written down."""
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "diffexp": diffexp.__version__,
    }
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return {**found, **git_revision()}


def git_revision(package: Path | None = None) -> dict[str, Any]:
    """The commit that the package was run from: {"git": hash, "git_dirty": bool}; None and None outside a repository.

    A repository that merely surrounds an installed copy (a virtual environment inside a project) does not count.
    """
    package = (package or Path(diffexp.__file__).parent).resolve()
    unknown = {"git": None, "git_dirty": None}
    found = _git(package, "rev-parse", "--show-toplevel", "HEAD").split("\n")
    if len(found) < 2 or Path(found[0]).resolve() != package.parent:
        return unknown
    return {"git": found[1], "git_dirty": bool(_git(package, "status", "--porcelain", "--untracked-files=no"))}


def revision() -> str:
    """The package's version and commit, for a person and for comparison: ``diffexp 0.1.0 (a1b2c3d)``."""
    commit = versions()["git"]
    return f"diffexp {diffexp.__version__}" + (f" ({commit[:10]})" if commit else "")


def _git(folder: Path, *arguments: str) -> str:
    """The output of a git command; empty when there is no git, no repository or no answer."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""
    return done.stdout.strip()


def ending(error: BaseException) -> tuple[str, str]:
    """(state, message) for the error that ended a run."""
    if isinstance(error, SystemExit):
        if error.code in (None, 0):
            return "ok", ""
        return ("preempted", "") if error.code == _PREEMPTED else ("failed", f"exit code {error.code}")
    if isinstance(error, PreemptedError):
        return "preempted", str(error)
    if isinstance(error, KeyboardInterrupt):
        return "preempted", "interrupted from the keyboard"
    text = str(error).strip().splitlines()
    first = text[0] if text else ""
    return "failed", first if isinstance(error, DiffexpError) else f"{type(error).__name__}: {first}"


def _now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
