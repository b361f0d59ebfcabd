"""A lock that keeps a second live writer out of a folder: a file with the owner's pid, host and start time.

The file appears whole (hard link of a finished file), so nobody ever reads half of it. A lock whose process is gone is
taken over; a pid that was given to another process since is told apart by the start time, where the system shows it.
"""

from __future__ import annotations

import json
import os
import socket
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffexp.core.errors import DiffexpError

_ATTEMPTS = 20


class LockedError(DiffexpError):
    """Another live process writes here.

    Attributes:
        job: what that process works on, as it said itself; empty when it did not.
    """

    def __init__(self, message: str, job: str = "") -> None:
        super().__init__(message)
        self.job = job


class Lock:
    """The lock of one folder; `acquire` and `release`, or a `with` block.

    Args:
        path: the lock file; its folder must exist.
        job: what is worked on; who is refused can read it.
    """

    def __init__(self, path: Path, job: str = "") -> None:
        self.path = path
        self.job = job
        self._token = ""

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            LockedError: a live process has it; its pid is named.
        """
        token = uuid.uuid4().hex
        mine = {**this_process(), "token": token, "job": self.job}
        draft = self.path.with_name(f".{self.path.name}.{token}.tmp")
        draft.write_text(json.dumps(mine), encoding="utf-8")
        try:
            for _ in range(_ATTEMPTS):
                try:
                    os.link(draft, self.path)
                except FileExistsError:
                    self._clear_stale()
                    continue
                self._token = token
                return
        finally:
            draft.unlink(missing_ok=True)
        raise LockedError(f"{self.path.parent}: the lock changes hands too fast: another process wants this folder")

    def release(self) -> None:
        """Give the lock back, if it is still ours."""
        if self._token and self._read().get("token") == self._token:
            self.path.unlink(missing_ok=True)
        self._token = ""

    def _clear_stale(self) -> None:
        """Remove the lock of a dead process; refuse that of a live one."""
        owner = self._read()
        if not owner:  # released between our two looks
            return
        if is_alive(owner):
            here = owner.get("host") == socket.gethostname()
            place = "" if here else f" on {owner.get('host')} (if it is gone, delete {self.path})"
            message = f"{self.path.parent}: in use by process {owner.get('pid')}{place}"
            raise LockedError(message, str(owner.get("job") or ""))
        try:
            self._remove_dead()
        except FileNotFoundError:  # another process has removed it
            return
        except (OSError, ImportError) as error:
            raise LockedError(f"{self.path}: left by a dead process; delete it by hand ({error})") from error

    def _remove_dead(self) -> None:
        """Remove the lock file, of which `_read` has just told that its owner is dead.

        Of several processes that found it dead, one may remove it, and none may remove what the first puts in its
        place: the file itself is locked, and must still be the one under this name.
        """
        import fcntl  # POSIX only

        handle = os.open(self.path, os.O_RDWR)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            same = os.path.samestat(os.fstat(handle), os.stat(self.path))
            if same and not is_alive(self._read()):
                self.path.unlink()
        finally:
            os.close(handle)

    def _read(self) -> dict[str, Any]:
        return _content(self.path)

    def __enter__(self) -> Lock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _content(path: Path) -> dict[str, Any]:
    """The content of a lock file; empty when there is none, and a dead owner when it is not readable as one."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        found = None
    dead = {"pid": 0, "host": socket.gethostname(), "token": ""}
    return found if isinstance(found, dict) and "pid" in found else dead


def is_held(path: Path) -> bool:
    """Whether a live process holds a lock file."""
    return path.is_file() and is_alive(_content(path))


def this_process(pid: int | None = None) -> dict[str, Any]:
    """What tells this process, or another one of this machine, from any other: {"pid", "host", "start"}."""
    pid = os.getpid() if pid is None else pid
    return {"pid": pid, "host": socket.gethostname(), "start": next(iter(_stat(pid)[19:20]), None)}


def is_alive(owner: Mapping[str, Any]) -> bool:
    """Whether the owner still runs; an owner on another host is taken for alive."""
    if owner.get("host") != socket.gethostname():
        return True
    pid = int(owner.get("pid") or 0)
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    fields = _stat(pid)
    if fields and fields[0] in "ZX":  # killed, and not yet buried by its parent
        return False
    return not fields or owner.get("start") is None or fields[19] == owner["start"]


def _stat(pid: int) -> list[str]:
    """What the system says of a process after its name: [0] state, [19] start in clock ticks since boot; or nothing."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return []
