"""The hand-over folder: how a parent and the ranks that it spawns talk, before and beside the process group.

    config.yaml     the frozen configuration
    start.json      sys.path of the parent, and the pipe whose end tells that it is gone
    rank<k>.log     what rank k > 0 says; a link into the run folder once that is known
    rank<k>.json    how rank k ended; missing when it was killed

Under torchrun there is no parent of ours: ranks > 0 say what they say into a file of their own until the run folder is
known.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from diffexp.core.errors import DiffexpError, PreemptedError
from diffexp.core.files import write_json_atomic
from diffexp.launch.ranks import HANDOVER, RankLostError
from diffexp.launch.text import one_line

Kind = Literal["done", "refused", "preempted", "interrupted", "lost", "failed"]
_aside: tuple[Path, int] | None = None  # (the file, the terminal's stderr) of a rank that has no log yet


@dataclass(frozen=True)
class Ending:
    """How a rank ended.

    Attributes:
        kind: done; refused (a DiffexpError); preempted; interrupted (a second signal); lost (another rank ended
            first); failed (a mistake in the program).
        code: the exit code.
        message: one line.
        result: what the task returned.
    """

    kind: Kind
    code: int = 0
    message: str = ""
    result: float | None = None

    @classmethod
    def of(cls, error: BaseException) -> Ending:
        """The ending that an exception means."""
        message = one_line(error)
        if isinstance(error, PreemptedError):
            return cls("preempted", error.exit_code, message)
        if isinstance(error, RankLostError):
            return cls("lost", error.exit_code, message)
        if isinstance(error, DiffexpError):
            return cls("refused", error.exit_code, message)
        if isinstance(error, KeyboardInterrupt):
            return cls("interrupted", 130, "interrupted")
        if isinstance(error, SystemExit):
            code = error.code if isinstance(error.code, int) else 1
            return cls("preempted" if code == 143 else "failed", code, f"exit code {error.code}")
        return cls("failed", 1, f"{type(error).__name__}: {message}")


class Handover:
    """The folder, seen by the parent and by the ranks.

    Args:
        folder: an empty folder, or one that `write` has filled.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def mine(cls) -> Handover:
        """The folder that this spawned rank was started from."""
        return cls(Path(os.environ[HANDOVER]))

    def write(self, config: Mapping[str, Any], pipe: int) -> None:
        """Freeze the configuration; `pipe` is the reading end of a pipe that the parent keeps open."""
        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        (self.folder / "config.yaml").write_text(text, encoding="utf-8")
        start = {"path": [os.path.abspath(entry) for entry in sys.path], "pipe": pipe}
        (self.folder / "start.json").write_text(json.dumps(start), encoding="utf-8")

    def config(self) -> dict[str, Any]:
        """The frozen configuration."""
        return yaml.safe_load((self.folder / "config.yaml").read_text(encoding="utf-8"))

    def pipe(self) -> int:
        """The number of the pipe's reading end, in a rank."""
        return int(json.loads((self.folder / "start.json").read_text(encoding="utf-8"))["pipe"])

    def log(self, rank: int) -> Path:
        """What a rank says."""
        return self.folder / f"rank{rank}.log"

    def end(self, rank: int, ending: Ending) -> None:
        """Write down how this rank ends."""
        if self.folder.is_dir():  # a parent that was killed has no use for it; its folder may have been tidied away
            write_json_atomic(self.folder / f"rank{rank}.json", asdict(ending))

    def ending(self, rank: int) -> Ending | None:
        """How a rank ended; None when it could not say."""
        try:
            return Ending(**json.loads((self.folder / f"rank{rank}.json").read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None

    def last_words(self, rank: int) -> str:
        """The last line of a rank's log; empty when there is none."""
        try:
            text = self.log(rank).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        lines = [line for line in map(one_line, text.splitlines()) if line]
        return lines[-1] if lines else ""


def write_aside() -> None:
    """Let this rank say what it says into a temporary file, until `write_on` knows where it belongs."""
    global _aside
    handle, name = tempfile.mkstemp(prefix="diffexp-rank-", suffix=".log")
    _aside = (Path(name), os.dup(2))
    _become(handle)


def write_on(path: Path) -> None:
    """Append all that this rank says to `path`, beginning with what it has said so far."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    before = Handover.mine().log(int(os.environ["RANK"])) if HANDOVER in os.environ else _aside and _aside[0]
    if before and not before.is_symlink():
        _flush()
        with open(handle, "ab", closefd=False) as log:
            log.write(before.read_bytes())
        before.unlink()
        if HANDOVER in os.environ:
            before.symlink_to(path.resolve())  # the parent looks here for the last line
    _become(handle)


def speak_up() -> None:
    """Say aloud what was written aside, if no log has taken it."""
    if _aside is None or not _aside[0].exists():
        return
    _flush()
    with open(_aside[1], "wb", closefd=False) as terminal:
        terminal.write(_aside[0].read_bytes())
    forget()


def forget() -> None:
    """Remove what was written aside, if no log has taken it."""
    if _aside is not None:
        _aside[0].unlink(missing_ok=True)


def _become(handle: int) -> None:
    """Make an open file this process's stdout and stderr; libraries that write past Python follow too."""
    _flush()
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
