"""Start a job as one process for each device, stand between them and the terminal, and tell how it ended.

Each rank is a fresh interpreter that reads the frozen configuration from a hand-over folder; it sees no command line
and no Hydra. The ranks have a session of their own, so that Ctrl-C reaches them once: through this process.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffexp.core.errors import DiffexpError, PreemptedError
from diffexp.launch import plugins
from diffexp.launch.handover import Ending, Handover
from diffexp.launch.ranks import HANDOVER, STORE, wants_ranks
from diffexp.launch.signals import StopRequest
from diffexp.launch.sweep import note_process

_LOOK = 0.05  # seconds between two looks at the ranks
_GRACE = 5.0  # seconds for the others to end by themselves when one has; then again after SIGTERM, before SIGKILL
_AT_ONCE = (0.5, 2.0)  # the same after a second signal
_ADDRESS = "127.0.0.1"
# The parent's sys.path, in its order: the ranks import the very code that the parent has imported.
_START = f"""
import json, os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # a scheduler's, to all processes: the parent answers it
with open(os.path.join(os.environ["{HANDOVER}"], "start.json"), encoding="utf-8") as handle:
    sys.path[:] = json.load(handle)["path"]
from diffexp.tasks.rank import main
sys.exit(main())
"""


class RankError(DiffexpError):
    """A rank ended with an error.

    Args:
        message: one line.
        exit_code: of the command.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def spawn(config: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> float | None:
    """Run a job on ranks of this machine and wait for it.

    Args:
        config: the resolved and validated configuration.
        environment: variables of the ranks beside this process's. Where they are given, a job that has no use for
            `trainer.devices` ranks is one process, so that nothing else ends with it; otherwise there are so many.

    Returns:
        what the task returned in rank 0.

    Raises:
        PreemptedError: a signal came, to this process or to a rank; the state is saved.
        RankError: a rank refused the job, failed, or died.
        KeyboardInterrupt: a second signal came.
    """
    with tempfile.TemporaryDirectory(prefix="diffexp-ranks-") as folder, StopRequest() as stop:
        ranks = _Ranks(Handover(Path(folder)), config, environment)
        try:
            ranks.wait(stop)
        except KeyboardInterrupt:
            ranks.signal(stop.received or signal.SIGTERM)
            ranks.end_within(*_AT_ONCE)
            raise
        finally:
            ranks.close()
        return ranks.outcome(stop)


class _Ranks:
    """The processes of one job.

    Args:
        handover: an empty folder.
        config: the job.
        environment: see `spawn`.
    """

    def __init__(self, handover: Handover, config: Mapping[str, Any], environment: Mapping[str, str] | None) -> None:
        self._handover = handover
        self._environment = environment or {}
        self._size = int(config["trainer"]["devices"]) if environment is None or wants_ranks(config) else 1
        self._processes: list[subprocess.Popen[bytes]] = []
        self._ended_here: set[int] = set()  # ranks that this process has told to end
        reading, self._alive = os.pipe()  # the ranks see the end of it when this process is gone, however it went
        handover.write(config, reading)
        try:
            with socket.create_server((_ADDRESS, 0), backlog=self._size) as listener:
                for rank in range(self._size):
                    self._processes.append(self._start(rank, listener, reading))
            if self._size == 1:
                note_process(self._processes[0].pid)
        except BaseException:
            self.close()
            raise
        finally:
            os.close(reading)

    def _start(self, rank: int, listener: socket.socket, pipe: int) -> subprocess.Popen[bytes]:
        """Start a rank: rank 0 at the terminal, the others with a log."""
        places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": self._size, "LOCAL_WORLD_SIZE": self._size}
        address = {"MASTER_ADDR": _ADDRESS, "MASTER_PORT": listener.getsockname()[1], STORE: listener.fileno()}
        added = {**places, **address, HANDOVER: self._handover.folder, **plugins.environment()}
        environment = {**os.environ, **self._environment, **{key: str(value) for key, value in added.items()}}
        handles = (pipe, listener.fileno()) if rank == 0 else (pipe,)
        command = [sys.executable, "-c", _START]
        options = {"env": environment, "pass_fds": handles, "start_new_session": True, "stdin": subprocess.DEVNULL}
        if rank == 0:
            return subprocess.Popen(command, **options)
        with open(self._handover.log(rank), "ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, **options)

    def wait(self, stop: StopRequest) -> None:
        """Wait until every rank has ended; pass on a stop; end the others when one has ended badly."""
        told = False
        while self._living():
            if stop.received is not None and not told:
                self.signal(stop.received)
                told = True
            codes = self._codes()
            if any(code not in (None, 0) for code in codes) or codes[0] is not None:
                stopped = -signal.SIGTERM in codes  # before the ranks can agree on it
                self.end_within(0.0 if stopped else _GRACE, _GRACE)
                return
            time.sleep(_LOOK)

    def end_within(self, seconds: float, again: float) -> None:
        """Give the ranks time to end by themselves; then `again` after SIGTERM; then kill them."""
        for patience, number in ((seconds, signal.SIGTERM), (again, signal.SIGKILL)):
            deadline = time.monotonic() + patience
            while self._living() and time.monotonic() < deadline:
                time.sleep(_LOOK)
            self._ended_here.update(self._living())
            self.signal(number)

    def signal(self, number: int) -> None:
        """Send a signal to the living ranks."""
        for rank in self._living():
            self._processes[rank].send_signal(number)

    def close(self) -> None:
        """Kill what still lives, and let go of the pipe."""
        for process in self._processes:
            process.kill()
            process.wait()
        os.close(self._alive)

    def _codes(self) -> list[int | None]:
        return [process.poll() for process in self._processes]

    def _living(self) -> list[int]:
        return [rank for rank, code in enumerate(self._codes()) if code is None]

    def outcome(self, stop: StopRequest) -> float | None:
        """What the ended ranks amount to: the first cause counts, not what followed from it. Raises as `spawn` does."""
        endings = {rank: self._handover.ending(rank) for rank in range(self._size)}
        for rank, ending in endings.items():
            if ending is None and rank not in self._ended_here:
                raise self._died(rank, stop)
        told = [(rank, ending) for rank, ending in endings.items() if ending is not None]
        for kind in ("refused", "failed", "preempted", "interrupted", "lost"):
            for rank, ending in told:
                if ending.kind == kind:
                    raise self._error(rank, ending)
        if endings[0] is None:
            raise RankError("rank 0 did not end by itself and was killed")
        return endings[0].result

    def _error(self, rank: int, ending: Ending) -> BaseException:
        """The exception for an ending that a rank has written down."""
        if ending.kind == "interrupted":
            return KeyboardInterrupt()
        if ending.kind == "preempted":
            return PreemptedError(ending.message, ending.code)
        message = ending.message if rank == 0 else f"rank {rank}: {ending.message}"
        return RankError(message, ending.code)

    def _died(self, rank: int, stop: StopRequest) -> DiffexpError:
        """The exception for a rank that could not say how it ended."""
        code = self._processes[rank].returncode
        if -code in (signal.SIGTERM, signal.SIGINT):  # before training could take the signal
            name = signal.Signals(stop.received or -code).name
            return PreemptedError(f"stopped by {name} before the first step", 128 + (stop.received or -code))
        how = f"was killed by {_name(-code)}" if code < 0 else f"ended with exit code {code}, without a word"
        if self._size == 1:
            return RankError(f"its process {how}; the same command goes on from what is saved")
        words = self._handover.last_words(rank) if rank else ""
        last = f" (the last line of its log: {words})" if words else ""
        text = f"rank {rank} of {self._size} {how}{last}; the others were ended"
        return RankError(f"{text}; the same command goes on from what is saved")


def _name(number: int) -> str:
    """The name of a signal."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
