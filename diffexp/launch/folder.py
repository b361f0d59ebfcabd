"""Run folders: `runs/<recipe>/<UTC time>-<seed>-<id>`, with all that is needed to run the same again.

    config.yaml     the resolved configuration, frozen
    versions.json   Python, packages, git revision
    status.json     running | ok | failed | preempted, with message, times and pid
    checkpoints/    step_00001234.ckpt
    lock            who writes here

Everything is written beside its name and renamed, so a kill leaves the old file or the new one.
"""

from __future__ import annotations

import os
import platform
import subprocess
import uuid
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
from diffexp.launch.layout import read_yaml
from diffexp.launch.lock import Lock
from diffexp.launch.schema import check_targets

CONFIG = "config.yaml"
CHECKPOINTS = "checkpoints"
_PACKAGES = ("torch", "lightning", "torchmetrics", "numpy", "scipy", "hydra-core", "omegaconf", "safetensors")
_PREEMPTED = 143  # the exit code of a run that SIGTERM ended after it saved


class RunFolder:
    """A run folder that this process writes to: it holds the lock, and keeps status.json true.

    Use it in a `with` block: the end of the block writes `ok`, `failed` (with the error's first line) or `preempted`,
    and gives the lock back.

    Attributes:
        path: the folder.
        config: the frozen configuration.
    """

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.path = path
        self.config = config
        self._lock = Lock(path / "lock")
        self._lock.acquire()
        self._started = _now()
        self.write_status("running")

    @classmethod
    def create(cls, config: Mapping[str, Any]) -> RunFolder:
        """Make a new folder for a resolved configuration (its keys `runs`, `recipe` and `seed` say where).

        Raises:
            DiffexpError: the folder cannot be made.
        """
        parent = Path(str(config.get("runs") or "runs")) / str(config.get("recipe") or "none")
        try:
            path = _new_folder(parent, int(config.get("seed", 0)))
            (path / CHECKPOINTS).mkdir()
        except OSError as error:
            raise DiffexpError(f"runs={config.get('runs')}: no run folder can be made there: {error}") from error
        frozen = dict(config)
        _freeze(path, frozen)
        return cls(path, frozen)

    @classmethod
    def open(cls, path: Path, config: Mapping[str, Any] | None = None) -> RunFolder:
        """Write on in an existing folder.

        Args:
            path: the folder.
            config: what it is resumed with; replaces the frozen configuration once the lock is held. None keeps it.

        Raises:
            LockedError: another live process writes there; its pid is named.
            ConfigError: the folder is no run folder.
        """
        frozen = load_frozen(path)
        folder = cls(path, frozen if config is None else dict(config))
        if config is not None:
            _freeze(path, folder.config)
        return folder

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
        write_json_atomic(self.path / "status.json", status)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.write_status(*_ending(error))
        finally:
            self._lock.release()


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


def _freeze(path: Path, config: dict[str, Any]) -> None:
    """Write down what is run, and with which versions."""
    write_text_atomic(path / CONFIG, OmegaConf.to_yaml(OmegaConf.create(config)))
    write_json_atomic(path / "versions.json", versions())


def versions() -> dict[str, Any]:
    """What the numbers depend on: Python, packages (read from their metadata, not imported), git revision."""
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


def _git(folder: Path, *arguments: str) -> str:
    """The output of a git command; empty when there is no git, no repository or no answer."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""
    return done.stdout.strip()


def _new_folder(parent: Path, seed: int) -> Path:
    """A folder that did not exist before; its name sorts by time."""
    parent.mkdir(parents=True, exist_ok=True)
    while True:
        stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%f")[:-3]
        path = parent / f"{stamp}-{seed}-{uuid.uuid4().hex[:6]}"
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path


def _ending(error: BaseException | None) -> tuple[str, str]:
    """(state, message) for the way a block ended."""
    if error is None:
        return "ok", ""
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
