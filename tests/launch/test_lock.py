"""One live writer for a folder."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from diffexp.launch.lock import Lock, LockedError, is_held


def _write(path: Path, **changes: object) -> None:
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "start": None, "token": "other", **changes}
    path.write_text(json.dumps(owner))


def test_a_second_writer_is_refused_and_told_the_pid(tmp_path: Path) -> None:
    with Lock(tmp_path / "lock"):
        with pytest.raises(LockedError, match=f"in use by process {os.getpid()}"):
            Lock(tmp_path / "lock").acquire()
        assert os.listdir(tmp_path) == ["lock"]
    assert os.listdir(tmp_path) == []


def test_a_live_process_elsewhere_is_refused(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        _write(tmp_path / "lock", pid=other.pid)
        with pytest.raises(LockedError, match=f"process {other.pid}"):
            Lock(tmp_path / "lock").acquire()
    finally:
        other.communicate(b"\n")
    with Lock(tmp_path / "lock"):  # now it is dead
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


def test_a_killed_owner_is_succeeded(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from diffexp.launch.lock import Lock\n"
        "Lock(Path(sys.argv[1])).acquire(); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "lock")], check=False)
    assert done.returncode == -9
    assert (tmp_path / "lock").exists()
    with Lock(tmp_path / "lock"):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs process states")
def test_a_killed_owner_whose_parent_has_not_noticed_is_succeeded(tmp_path: Path) -> None:
    """It still has a pid that can be signalled, but it will never write again."""
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    _write(tmp_path / "lock", pid=other.pid)
    assert is_held(tmp_path / "lock")
    other.kill()
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    os.kill(other.pid, 0)
    assert not is_held(tmp_path / "lock")
    with Lock(tmp_path / "lock"):
        assert is_held(tmp_path / "lock")
    other.wait()
    assert not is_held(tmp_path / "lock")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_an_unreadable_lock_is_stale(tmp_path: Path, text: str) -> None:
    (tmp_path / "lock").write_text(text)
    with Lock(tmp_path / "lock"):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs process start times")
def test_a_reused_pid_is_no_owner(tmp_path: Path) -> None:
    _write(tmp_path / "lock", start="1")  # our own pid, but started at another time
    with Lock(tmp_path / "lock"):
        assert json.loads((tmp_path / "lock").read_text())["start"] != "1"
    assert os.listdir(tmp_path) == []


def test_another_host_is_taken_for_alive(tmp_path: Path) -> None:
    _write(tmp_path / "lock", host="elsewhere", pid=1)
    with pytest.raises(LockedError, match="on elsewhere"):
        Lock(tmp_path / "lock").acquire()


def test_a_lock_that_was_taken_over_is_not_removed_by_its_former_owner(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "lock")
    lock.acquire()
    _write(tmp_path / "lock", token="successor")
    lock.release()
    assert (tmp_path / "lock").exists()


def test_of_many_at_once_one_wins(tmp_path: Path) -> None:
    _write(tmp_path / "lock", pid=0)  # stale, so that all of them try to take it over
    won, barrier = [], threading.Barrier(8)

    def attempt() -> None:
        lock = Lock(tmp_path / "lock")
        barrier.wait()
        try:
            lock.acquire()
        except LockedError:
            return
        won.append(lock)

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert os.listdir(tmp_path) == ["lock"]
